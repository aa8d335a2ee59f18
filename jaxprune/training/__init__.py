"""Fitting weights, for one network or for many masks of it, and measuring the result.

::

    recipe = training.default_recipe("cnn", "digits")
    variables, history = training.fit(
        network.apply_train, network.init(key), dataset.train, preprocess, recipe, key
    )
    training.accuracy(network.apply, variables, dataset.test, preprocess)

Training that takes long is kept in a file and goes on where it was interrupted, and a network can
be taught by another one::

    recipe = dataclasses.replace(recipe, distill=0.5)
    training.fit(..., keep=training.Kept(path), teacher=Partial(network.apply, dense))

Everything here takes plain functions of `variables = {"params": ..., **state}`, so a dense network,
a masked and a compact one are trained by the same code.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.training.fitting import History, Progress, finetune, finetune_each, finetune_many, fit
from jaxprune.training.measuring import accuracy, scores
from jaxprune.training.pretraining import pretrained
from jaxprune.training.recipes import Recipe, default_recipe
from jaxprune.training.unfinished import Kept

__all__ = [
    "History",
    "Kept",
    "Progress",
    "Recipe",
    "accuracy",
    "default_recipe",
    "finetune",
    "finetune_each",
    "finetune_many",
    "fit",
    "pretrained",
    "scores",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
