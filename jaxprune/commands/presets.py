"""Settings to begin with: a quick look, the defaults, or what a paper says.

A preset gives defaults to some options of the run and of its method; options that are typed
override them. The preset "default" gives none: it is what the settings' own texts say.
"""

from types import MappingProxyType
from typing import Any, NamedTuple

from jaxprune.errors import UserError

NAMES = ("quick", "default", "paper")


class Preset(NamedTuple):
    """Defaults of a run.

    Attributes:
        run: {field of `RunConfig`: value}.
        search: {field of the method's `Config`: value}.
    """

    run: dict[str, Any]
    search: dict[str, Any]


QUICK_RUN = MappingProxyType(
    {
        "pretrain_epochs": 10,
        "finetune_epochs": 4,
        "semifinalists": 4,
        "semifinal_steps": 16,
        "finalists": 2,
        "search_examples": 256,
    }
)
"""For all methods. The preset quick takes about a minute on two cores with the digits; its numbers
are rough."""

_QUICK_DDPG = {"iterations": 20, "warmup": 40}

QUICK_SEARCH: dict[str, dict[str, Any]] = {
    "mcts": {"iterations": 2, "games": 4, "simulations": 8, "learning_steps": 32},
    "crl": {"iterations": 10, "episodes": 16},
    "acnn": _QUICK_DDPG,
    "amc": _QUICK_DDPG,
    "cacp": _QUICK_DDPG,
    "magnitude": {},
    "random": {"candidates": 16},
    "sensitivity": {"iterations": 1},
    "knapsack": {"iterations": 1},
    "evolution": {"candidates": 64},
    "l0": {"epochs": 8},
    "autoprune": {"epochs": 8},
    "group_lasso": {"epochs": 8},
    "cges": {"epochs": 8},
    "barrier": {"epochs": 8},
    "admm": {"epochs": 8},
}

PAPER_SEARCH: dict[str, dict[str, Any]] = {
    # Table 1 of the supplement, for any number of filters, and a policy that is the network's
    # alone. It names no hyperparameter: the others are this project's.
    "mcts": {
        "width": 64,
        "head": "dense",
        "importance_prior": 0.0,
        "block": 1,
        "terminal": "evaluate",
    },
    # Table 5.3 of the thesis; what else it gives is the default already. A sigmoid begins at 0.5.
    # It moves the multipliers by Adam. Its first clip of the actions, 0.8 where 20 % may stay and
    # 0.9 where 10 %, follows the budget and is --search.initial-ratio.
    "crl": {
        "dual": "ascent",
        "multiplier_rate": 0.1,
        "finetune_schedule": (0, 32, 128),
        "initial_action": 0.5,
        "ratio_rise": 0.05,
        "episodes": 32,
    },
    # Algorithm 1: one pass over the replay in each of the about 100 iterations, after which it is
    # cleared, plain rewards, and one learning rate. The reward alone holds the budget.
    "acnn": {
        "iterations": 100,
        "replay": None,
        "updates": 1,
        "baseline_rate": 0.0,
        "actor_rate": 1e-3,
        "critic_rate": 1e-3,
        "unbounded": True,
    },
    # The published codes play one episode at a time and then learn: 800, and 100 + 800.
    "amc": {"episodes": 1, "iterations": 800},
    "cacp": {"episodes": 1, "iterations": 900},
    # Section 4.1 and the published code.
    "l0": {"gate_learning_rate": 1e-3, "epochs": 200},
}
"""Published settings, where they differ from the defaults."""

PAPER_RUN: dict[str, dict[str, Any]] = {
    "crl": {"search_examples": 20_000},  # Table 5.3, batch size of the pruning environment
    # An NCR of 3.46, in which input features count as neurons; the order is by L1 norms.
    "acnn": {
        "prune_inputs": True,
        "cost": ("neurons",),
        "budget": ("0.289",),
        "importance": "l1",
    },
}
"""The same for the run."""

UNPUBLISHED: dict[str, str] = {
    "magnitude": "its settings are this project's",
    "random": "it is this project's",
    "sensitivity": "its settings are this project's",
    "knapsack": "its settings are this project's",
    "evolution": "its paper's are for 20,000 networks that are trained one by one",
    "autoprune": "its paper's are not public",
    "group_lasso": "its papers give them for networks that are not bundled",
    "cges": "its paper's strength belongs to a network that is not bundled",
    "barrier": "its paper's are for networks that are not bundled",
    "admm": "its papers' are for single weights",
}
"""Why a method has no preset "paper"."""

TIMESTEPS = 40_000
"""Layers that CRL's agent decides on in one search (Table 5.3)."""

LAYERS: dict[str, int] = {
    "cnn": 3,
    "lenet300": 2,
    "lenet5": 3,
    "mlp": 2,
    "vgg11": 8,
    "vgg16": 13,
    "vgg19": 16,
    "resnet18": 12,
    "resnet20": 12,
    "resnet50": 37,
    "resnet56": 30,
    "ghost_vgg16": 13,
    "ghost_resnet20": 12,
}
"""{model: its groups of channels}, one decision each."""


def find(name: str, method: str, model: str) -> Preset:
    """The preset of that name.

    Args:
        name: One of `NAMES`.
        method: One of `methods.NAMES`.
        model: The bundled model; CRL's published number of timesteps is more or fewer rounds of
            episodes according to its layers.

    Raises:
        UserError: There is none, or nothing was published for the method.
    """
    if name not in NAMES:
        raise UserError(f"unknown preset {name!r}; the presets are: {', '.join(NAMES)}")
    if name == "default":
        return Preset({}, {})
    if name == "quick":
        return Preset(dict(QUICK_RUN), dict(QUICK_SEARCH[method]))
    if method in UNPUBLISHED:
        raise UserError(
            f"--method {method} has no published settings ({UNPUBLISHED[method]}): "
            "choose --preset quick or default"
        )
    search = dict(PAPER_SEARCH[method])
    if method == "crl" and model in LAYERS:
        search["iterations"] = round(TIMESTEPS / (search["episodes"] * LAYERS[model]))
    return Preset({"recipe": "paper", **PAPER_RUN.get(method, {})}, search)
