"""What pruning did to each layer, against the counts of the structure."""

import json

import jax
import numpy as np
import pytest

import jaxprune
from jaxprune import costs
from jaxprune.commands.report import architecture, drawing
from jaxprune.networks import bundled


@pytest.fixture(scope="module", params=["cnn", "resnet20", "lenet300"])
def pruned(request):
    """A network's shapes, random masks, and their description."""
    shape = (8, 8, 1)
    network = bundled.build(request.param, shape)
    variables = jax.eval_shape(network.init, jax.random.PRNGKey(0))
    x = jax.ShapeDtypeStruct((1, 64) if network.flat else (1, *shape), np.float32)
    structure = jaxprune.trace(network.apply, variables, x, prune_inputs=network.flat)
    rng = np.random.default_rng(0)
    masks = {group.name: (rng.random(group.size) < 0.4) * 1 for group in structure.groups}
    for mask in masks.values():
        mask[0] = 1
    return structure, masks, architecture.describe(structure, masks, shape)


def test_the_layers_add_up_to_the_network(pruned):
    structure, masks, found = pruned
    whole = structure.full_masks()
    for place, chosen in enumerate((whole, masks)):
        total = sum(layer.macs[place] for layer in found.layers)
        assert total == costs.exact(structure, chosen, "macs")
    # The parameters of BatchNorm, two for each channel that it normalises, belong to no layer.
    normalised = sum(int(layer.kept_outputs.sum()) for layer in found.layers[:-1])
    normalised *= 2 * any("bn" in path for path in structure.paths)
    total = sum(layer.params[1] for layer in found.layers)
    assert total + normalised == costs.exact(structure, masks, "params")


def test_kept_channels_are_those_of_the_masks(pruned):
    _, masks, found = pruned
    for layer in found.layers:
        if layer.group is not None:
            np.testing.assert_array_equal(layer.kept_outputs, masks[layer.group] == 1)
    assert found.layers[-1].kept_outputs.all()
    assert found.widths == {name: len(mask) for name, mask in masks.items()}


def test_it_is_kept_in_json(pruned):
    _, _, found = pruned
    again = architecture.from_json(json.loads(json.dumps(architecture.to_json(found))))
    assert again.image_shape == found.image_shape
    assert again.groups == found.groups
    assert again.frozen == found.frozen
    for left, right in zip(again.layers, found.layers, strict=True):
        for one, other in zip(left, right, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_drawing_is_to_scale(pruned):
    _, _, found = pruned
    from xml.etree import ElementTree

    svg = ElementTree.fromstring(drawing.layers(found))
    before = [
        float(block.get("height")) for block in svg.iter("rect") if block.get("class") == "was"
    ]
    after = [
        float(block.get("height")) for block in svg.iter("rect") if block.get("class") == "left"
    ]
    sizes = np.array([len(layer.kept_outputs) for layer in found.layers])
    kept = np.array([layer.kept_outputs.sum() for layer in found.layers])
    scale = before[1] / sizes[0]
    np.testing.assert_allclose(before[1:], scale * sizes, atol=0.01)
    np.testing.assert_allclose(after[1:], scale * kept, atol=0.01)


def test_the_map_of_groups_has_their_layers(pruned):
    from xml.etree import ElementTree

    structure, masks, found = pruned
    widths = {name: int(mask.sum()) for name, mask in masks.items()}
    svg = ElementTree.fromstring(drawing.groups(found, widths))
    names = [layer.path for layer in found.layers]
    wanted = [
        f"{layer} makes {g.name}" for g in structure.groups for layer in names if layer in g.layers
    ]
    wanted += [
        f"{layer} reads {g.name}"
        for g in structure.groups
        for layer in names
        if layer in g.consumers
    ]
    assert sorted(title.text for dot in svg.iter("circle") for title in dot) == sorted(wanted)
    texts = [text.text for text in svg.iter("text")]
    for group in structure.groups:
        assert f"{group.name}: {widths[group.name]} of {group.size}" in texts
