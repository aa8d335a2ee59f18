"""Pictures of weights, pixel by pixel."""

import base64
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from jaxprune.commands.report import weights
from jaxprune.commands.report.architecture import Architecture, LayerChange


def pixels(picture):
    prefix, data = picture.source.split(",", 1)
    assert prefix == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))))


def network(kernel, kept_inputs, kept_outputs, image_shape=(2, 2, 1)):
    layer = LayerChange(
        *("conv", "conv", (2, 2), (1, 1)),
        *(np.array(kept_inputs, bool), np.array(kept_outputs, bool)),
        *((1, 1), (np.size(kernel), 1)),
    )
    return Architecture(image_shape, (), (layer,), ())


def variables(kernel):
    return {"params": {"conv": {"kernel": np.array(kernel, np.float32)}}}


def test_filters_are_grey_images_to_one_scale():
    kernel = np.zeros((2, 2, 1, 3))
    kernel[..., 0, 0] = [[-1, 0], [0, 1]]
    kernel[..., 0, 2] = [[0.5, 0], [0, 0]]
    found = weights.first_filters(network(kernel, [1], [1, 0, 1]), variables(kernel))
    assert [one.number for one in found.kept] == [0, 2]
    assert [one.number for one in found.removed] == [1]
    assert found.counts == (2, 1)
    np.testing.assert_array_equal(pixels(found.kept[0].picture), [[0, 128], [128, 255]])
    np.testing.assert_array_equal(pixels(found.kept[1].picture), [[191, 128], [128, 128]])


def test_weights_that_read_the_pixels_are_images_too():
    kernel = np.arange(8.0).reshape(4, 2) / 7
    found = weights.first_filters(network(kernel, [1] * 4, [1, 1]), variables(kernel))
    assert pixels(found.kept[0].picture).shape == (2, 2)
    assert pixels(found.kept[1].picture)[1, 1] == 255
    assert (
        weights.first_filters(network(kernel, [1] * 4, [1, 1], (9, 9, 1)), variables(kernel))
        is None
    )


def test_of_many_filters_the_first_are_shown():
    kernel = np.ones((1, 1, 1, 150))
    kept = np.arange(150) % 2
    found = weights.first_filters(network(kernel, [1], kept), variables(kernel))
    assert found.counts == (75, 75)
    assert [one.number for one in found.kept] == list(range(1, 121, 2))
    assert len(found.removed) == weights.MOST_FILTERS


def test_heat_maps_have_one_scale_and_blanks_where_weights_are_gone():
    dense = np.zeros((2, 2, 2, 3))
    dense[..., 1, 2] = [[1, -1], [3, -3]]  # mean magnitude 2, the largest
    dense[..., 0, 0] = 1
    small = np.full((2, 2, 1, 2), 0.5)
    found = network(dense, [0, 1], [1, 0, 1])
    (one,) = weights.heat_maps(found, variables(dense), variables(small))
    assert one.largest == 2
    assert one.shape == (2, 3)
    before, after = pixels(one.before), pixels(one.after)
    assert before.shape == after.shape == (2, 3, 4)
    assert (before[..., 3] == 255).all()
    np.testing.assert_array_equal(after[..., 3], [[0, 0, 0], [255, 0, 255]])
    np.testing.assert_array_equal(before[1, 2, :3], [253, 231, 37])  # viridis's last colour
    np.testing.assert_array_equal(before[0, 1, :3], [68, 1, 84])  # and its first
    assert after[1, 0].tolist() == after[1, 2].tolist() != before[1, 0].tolist()


def test_large_matrices_are_averaged_over_blocks():
    dense = np.zeros((1, 2 * weights.FINEST))
    dense[0, :2] = [1, 3]
    kept = np.arange(dense.shape[1]) != 1
    layer = network(dense, [1], kept)
    (one,) = weights.heat_maps(layer, variables(dense), variables(dense[:, kept]))
    assert one.block == (1, 2)
    assert one.largest == 2  # the mean of 1 and 3; after, what is left of the block is 1
    assert pixels(one.after).shape == (1, weights.FINEST, 4)
    assert pixels(one.after)[0, 0, 3] == 255


def test_layers_without_a_kernel_are_left_out():
    kernel = np.ones((1, 1, 1, 2))
    assert weights.heat_maps(network(kernel, [1], [1, 1]), {"params": {}}, {"params": {}}) == []
    assert weights.first_filters(network(kernel, [1], [1, 1]), {"params": {}}) is None


@pytest.mark.parametrize("count", [1, weights.MOST_LAYERS + 3])
def test_of_many_layers_the_largest_are_shown(count):
    layers, params = [], {}
    for number in range(count):
        kernel = np.ones((1, 1 + number % 5))
        layer = network(kernel, [1], [1] * kernel.shape[1]).layers[0]
        layers.append(layer._replace(path=f"l{number}", params=(kernel.size, 1)))
        params[f"l{number}"] = {"kernel": kernel}
    found = weights.heat_maps(Architecture((1, 1, 1), (), tuple(layers), ()), params, params)
    assert len(found) == min(count, weights.MOST_LAYERS)
    names = [int(one.layer[1:]) for one in found]
    assert names == sorted(names)
    assert count == 1 or {0, 5, 10}.isdisjoint(names)  # the smallest of fifteen
