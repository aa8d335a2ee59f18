"""Importance from the parameters, against hand computed values, scipy and torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from jaxprune import UserError, importance, trace


def chain(*kernels):
    """The structure and parameters of a chain of matrix products."""
    params = {f"layer{i}": jnp.asarray(kernel, jnp.float32) for i, kernel in enumerate(kernels)}

    def apply(params, x):
        for kernel in params.values():
            x = x @ kernel
        return x

    return trace(apply, params, jnp.ones((1, len(kernels[0])))), params


def of_filters(*filters):
    """One group whose filters are given."""
    return chain(np.transpose(filters), np.ones((len(filters), 2)))


def test_norms_by_hand():
    structure, params = of_filters((3, -4), (0, 2), (-1, 0))
    np.testing.assert_allclose(importance.l1(structure, params), [7, 2, 1])
    np.testing.assert_allclose(importance.l2(structure, params), [5, 2, 1])


def test_input_features_have_the_norm_of_the_weights_that_read_them():
    params = {"kernel": jnp.array([[1.0, -2.0], [0.0, 0.5], [3.0, 0.0]]), "out": jnp.ones((2, 2))}
    params["shift"] = jnp.full(3, 9.0)

    def apply(params, x):
        return (x + params["shift"]) @ params["kernel"] @ params["out"]

    structure = trace(apply, params, jnp.ones((1, 3)), prune_inputs=True)
    assert [group.size for group in structure.groups] == [3, 2]
    np.testing.assert_allclose(importance.l1(structure, params), [3, 0.5, 3, 4, 2.5])


def test_half_precision_weights_are_summed_in_float32():
    structure, params = chain(np.full((4096, 2), 0.5), np.ones((2, 2)))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    scores = importance.l1(structure, half)
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(scores, [2048, 2048])


def test_batch_norm_scales_are_summed_over_coupled_layers(residual):
    params = residual.variables["params"]
    scores = importance.batch_norm_scale(residual.structure, residual.variables)
    assert scores.dtype == jnp.float32
    found = residual.structure.unflatten(scores)
    expected = np.abs(params["bn1"]["scale"]) + np.abs(params["bn3"]["scale"])
    np.testing.assert_allclose(found["conv1"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["conv2"], np.abs(params["bn2"]["scale"]), rtol=1e-6)
    # No scale: L1 norms, on the mean level of the others.
    norms = np.abs(params["hidden"]["kernel"]).sum(0)
    level = np.concatenate([found["conv1"], found["conv2"]]).mean()
    np.testing.assert_allclose(found["hidden"], norms / norms.mean() * level, rtol=1e-5)


def test_batch_norm_scale_of_nnx():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(1, 3, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=rngs)
            self.out = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x):
            return self.out(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))

    network = Network(nnx.Rngs(0))
    network.norm.scale.set_value(jnp.array([-3.0, 0.5, 2.0]))
    definition, state = nnx.split(network)
    structure = trace(lambda p, x: nnx.merge(definition, p)(x), state, jnp.ones((1, 5, 5, 1)))
    np.testing.assert_allclose(importance.batch_norm_scale(structure, state), [3, 0.5, 2])


def test_batch_norm_scale_with_axes_of_size_one():
    """Haiku keeps the reduced axes of its scales."""
    params = {
        "conv": jnp.ones((3, 3, 1, 2)),
        "norm": {"scale": jnp.array([2.0, -1.0]).reshape(1, 1, 1, 2)},
        "out": jnp.ones((2, 2)),
    }

    def apply(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (x * params["norm"]["scale"]).mean((1, 2)) @ params["out"]

    structure = trace(apply, params, jnp.ones((1, 5, 5, 1)))
    np.testing.assert_allclose(importance.batch_norm_scale(structure, params), [2, 1])


def test_a_kernel_named_weight_is_no_scale():
    params = {"a": {"weight": jnp.ones((2, 3))}, "b": {"weight": jnp.ones((3, 2))}}
    structure = trace(
        lambda p, x: x @ p["a"]["weight"] @ p["b"]["weight"], params, jnp.ones((1, 2))
    )
    with pytest.raises(UserError, match="no group has a normalisation scale"):
        importance.batch_norm_scale(structure, params)


def test_fpgm_by_hand():
    structure, params = of_filters((0, 0), (3, 4), (6, 8))
    np.testing.assert_allclose(importance.fpgm(structure, params), [15, 10, 15], rtol=1e-6)


def test_fpgm_of_equal_filters_far_from_the_origin():
    structure, params = of_filters((1000, 1), (1000, 1), (1000, 2))
    np.testing.assert_allclose(importance.fpgm(structure, params), [1, 1, 2], atol=1e-3)


def filters(variables, *layers):
    """The kernels of layers as [filters, features], side by side."""
    kernels = [np.asarray(variables["params"][layer]["kernel"], np.float64) for layer in layers]
    return np.concatenate([k.reshape(-1, k.shape[-1]).T for k in kernels], axis=1)


LAYERS = {"conv1": ("conv1", "conv3"), "conv2": ("conv2",), "hidden": ("hidden",)}


def test_fpgm_of_coupled_layers_against_scipy(residual):
    found = residual.structure.unflatten(importance.fpgm(residual.structure, residual.variables))
    for name, layers in LAYERS.items():
        points = filters(residual.variables, *layers)
        np.testing.assert_allclose(found[name], cdist(points, points).sum(1), rtol=1e-5)


def test_fpgm_where_a_channel_has_several_positions():
    """A layer produces every channel twice: its filter is both of its columns."""
    params = {"a": jax.random.normal(jax.random.key(0), (2, 6)), "b": jnp.ones((3, 2))}

    def apply(params, x):
        y = x @ params["a"]
        return (y[:, :3] + y[:, 3:]) @ params["b"]

    structure = trace(apply, params, jnp.ones((1, 2)))
    assert structure.num_channels == 3
    kernel = np.asarray(params["a"], np.float64)
    points = np.concatenate([kernel[:, :3], kernel[:, 3:]]).T
    found = importance.fpgm(structure, params)
    np.testing.assert_allclose(found, cdist(points, points).sum(1), rtol=1e-5)
    np.testing.assert_allclose(importance.l1(structure, params), abs(points).sum(1), rtol=1e-6)


def test_lamp_by_hand():
    structure, params = of_filters((2, 0), (0, 1), (3, 0))
    np.testing.assert_allclose(
        importance.lamp(structure, params), [4 / 13, 1 / 14, 9 / 9], rtol=1e-6
    )


def test_lamp_of_ties_and_zeros():
    structure, params = of_filters((2, 0), (0, -2), (1, 0), (0, 0), (0, 0))
    np.testing.assert_allclose(
        importance.lamp(structure, params), [1 / 2, 1 / 2, 1 / 9, 0, 0], rtol=1e-6
    )
    nothing = of_filters((0, 0), (0, 0))
    np.testing.assert_array_equal(importance.lamp(*nothing), [0, 0])


def test_lamp_against_torch(residual):
    """Sorted, divided by what is left after the cumulative sum, put back: as the paper does."""
    torch = pytest.importorskip("torch")
    found = residual.structure.unflatten(importance.lamp(residual.structure, residual.variables))
    for name, layers in LAYERS.items():
        squares = torch.from_numpy(filters(residual.variables, *layers)).square().sum(1)
        ascending, order = squares.sort()
        left = squares.sum() - torch.cat([torch.zeros(1), ascending.cumsum(0)[:-1]])
        expected = torch.empty_like(squares).scatter(0, order, ascending / left)
        np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(-3, 3), min_size=5, max_size=5), st.permutations(range(5)))
def test_weight_criteria_follow_a_permutation_of_the_filters(values, order):
    values = np.array(values)
    structure, params = of_filters(*[(v, 1) for v in values])
    _, permuted = of_filters(*[(v, 1) for v in values[list(order)]])
    for criterion in (importance.l1, importance.l2, importance.fpgm, importance.lamp):
        before, after = criterion(structure, params), criterion(structure, permuted)
        np.testing.assert_allclose(after, np.asarray(before)[list(order)], rtol=1e-5, atol=2e-3)


def test_params_that_do_not_fit_are_refused(residual):
    for name in ("l1", "l2", "batch_norm_scale", "fpgm", "lamp"):
        with pytest.raises(ValueError, match="another tree"):
            importance.get(name)(residual.structure, residual.variables["params"])


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_last_layer_reads_channels_whatever_its_number_of_outputs(outputs):
    """Of regressions and critics, too: methods of group sparsity shrink what leaves a channel."""
    params = {
        "in": jnp.ones((3, 4)),
        "flax": jnp.ones((4, outputs)),
        "torch": jnp.ones((outputs, 4)),
        "conv": jnp.ones((1, 1, 4, outputs)),
    }

    def apply(params, x):
        x = x @ params["in"]
        maps = jax.lax.conv_general_dilated(
            x[:, None, None],
            params["conv"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return x @ params["flax"] + x @ params["torch"].T + maps[:, 0, 0]

    structure = trace(apply, params, jnp.ones((1, 3)))
    found = {(structure.paths[leaf], axis) for leaf, axis in importance.reading_axes(structure)}
    assert found == {("conv", 2), ("flax", 0), ("torch", 1)}
