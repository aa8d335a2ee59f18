"""The presets: settings that exist, for every method."""

import jax
import pytest

from jaxprune import trace
from jaxprune.commands import presets
from jaxprune.commands.config import RunConfig, check
from jaxprune.networks import bundled
from jaxprune.search import methods
from marks import slow_if_in


@pytest.mark.parametrize("name", presets.NAMES)
@pytest.mark.parametrize("method", methods.NAMES)
def test_every_preset_is_possible(method, name):
    if name == "paper" and method in presets.UNPUBLISHED:
        return
    preset = presets.find(name, method, "cnn")
    check(RunConfig(method=method, **preset.run))
    search = methods.get(method).Config(**preset.search)
    changed = {field for field, value in preset.search.items() if value != default(search, field)}
    assert (name == "default") == (not preset.run and not preset.search)
    if method == "mcts" and name == "paper":
        assert changed == {"width", "head", "importance_prior", "block", "terminal"}


def default(search, field):
    return getattr(type(search)(), field)


def test_every_method_is_published_or_not():
    assert set(presets.QUICK_SEARCH) == set(methods.NAMES)
    assert set(presets.PAPER_SEARCH) | set(presets.UNPUBLISHED) == set(methods.NAMES)
    assert not set(presets.PAPER_SEARCH) & set(presets.UNPUBLISHED)
    assert set(presets.LAYERS) == set(bundled.NAMES)


SLOW = ("vgg19", "resnet18", "resnet50", "resnet56")


@pytest.mark.parametrize("name", slow_if_in(SLOW, bundled.NAMES))
def test_layers_are_those_of_the_traced_model(name):
    network = bundled.build(name, (32, 32, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0))
    shape = (1, 32 * 32 * 3) if network.flat else (1, 32, 32, 3)
    structure = trace(network.apply, variables, jax.ShapeDtypeStruct(shape, "float32"))
    assert len(structure.groups) == presets.LAYERS[name]
