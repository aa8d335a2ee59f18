"""Convolutions with quick derivatives: XLA's numbers, in XLA's layout, a few images at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend.core import jaxprs_in_params

from dependency.checks import quick_jit
from jaxprune.scoring.lowering import gradients, lower

CONVOLUTION = "conv_general_dilated"


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def quick(fn):
    return lower(fn, differentiated=True, backend="cpu")


def same(x, kernel, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def loss(fn):
    return lambda x, kernel: jnp.sum(jnp.sin(fn(x, kernel)))


def equations(jaxpr, name):
    """The equations of a primitive in a program, those of called functions included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == name:
            yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner, name)


def program(fn, *args):
    return jax.make_jaxpr(fn)(*args).jaxpr


def assert_close(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(
            one, other, atol=2e-5 * (1 + float(jnp.abs(other).max(initial=0)))
        )


# ------------------------------------------------------------------------------- the same numbers


def check_derivatives(data, monkeypatch):
    dimensions = data.draw(st.integers(1, 3), "dimensions")
    groups = data.draw(st.sampled_from([1, 2, 4]), "groups")
    drawn = [
        (
            data.draw(st.integers(3, 5), "map"),
            data.draw(st.integers(1, 3), "kernel"),
            data.draw(st.integers(1, 3), "stride"),
            data.draw(st.integers(1, 2), "dilation of the kernel"),
            data.draw(st.integers(1, 2), "dilation of the map"),
            (data.draw(st.integers(0, 3), "before"), data.draw(st.integers(0, 3), "after")),
        )
        for _ in range(dimensions)
    ]
    maps, kernels, strides, dilations, of_map, padding = zip(*drawn, strict=True)
    x, kernel = draw(0, 5, 4, *maps), draw(1, 8, 4 // groups, *kernels)
    layouts = [data.draw(st.permutations(range(dimensions + 2)), "axes") for _ in range(3)]
    monkeypatch.setattr(gradients, "CACHE", data.draw(st.sampled_from([1, 2**11, 2**20]), "cache"))

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x.transpose(np.argsort(layouts[0])),
            kernel.transpose(np.argsort(layouts[1])),
            strides,
            padding,
            of_map,
            dilations,
            dimension_numbers=lax.ConvDimensionNumbers(*map(tuple, layouts)),
            feature_group_count=groups,
        )

    def everything(fn):
        def all_derivatives(x, kernel):
            result, tangent = jax.jvp(fn, (x, kernel), (x, kernel))
            return result, tangent, jax.grad(loss(fn), (0, 1))(x, kernel)

        return quick_jit(all_derivatives)

    assert_close(everything(quick(convolve))(x, kernel), everything(convolve)(x, kernel))


@settings(max_examples=3, deadline=None)
@given(st.data())
def test_derivatives_of_all_windows_groups_and_layouts(data):
    with pytest.MonkeyPatch.context() as patch:
        check_derivatives(data, patch)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_derivatives_of_many_windows_groups_and_layouts(data):
    with pytest.MonkeyPatch.context() as patch:
        check_derivatives(data, patch)


X, KERNEL = draw(0, 5, 6, 6, 4), draw(1, 3, 3, 4, 4)
WAYS = {
    "gradient of the gradient": lambda fn: jax.grad(
        lambda x, k: sum(jnp.sum(jnp.square(g)) for g in jax.grad(loss(fn), (0, 1))(x, k)), (0, 1)
    ),
    "Hessian times vector": lambda fn: (
        lambda x, k: jax.jvp(jax.grad(loss(fn), 1), (x, k), (jnp.sin(x), jnp.cos(k)))
    ),
    "kernels of several candidates": lambda fn: (
        lambda x, k: jax.vmap(jax.grad(loss(fn), (0, 1)), (None, 0))(x, jnp.stack([k, 2 * k]))
    ),
    "images of several candidates": lambda fn: (
        lambda x, k: jax.vmap(jax.grad(loss(fn), (0, 1)), (0, None))(jnp.stack([x, 2 * x]), k)
    ),
    "inside checkpoint": lambda fn: jax.grad(loss(jax.checkpoint(fn)), (0, 1)),
    "inside a loop": lambda fn: jax.grad(
        loss(lambda x, k: lax.scan(lambda x, s: (jnp.tanh(fn(x, k * s)), None), x, jnp.ones(3))[0]),
        (0, 1),
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_transformations_compose(way, monkeypatch):
    monkeypatch.setattr(gradients, "CACHE", 2**11)  # two images at a time, and a last one
    transform = WAYS[way]
    assert_close(
        quick_jit(transform(quick(same)))(X, KERNEL), quick_jit(transform(same))(X, KERNEL)
    )


def test_a_gradient_by_hand():
    """d/dk of the sum of 1-D outputs g * conv(x, k), VALID: each place of the kernel meets two."""
    x, g = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1), jnp.array([10.0, 1.0]).reshape(1, 2, 1)

    def convolve(x, kernel):
        numbers = ("NWC", "WIO", "NWC")
        return lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=numbers)

    def total(kernel):
        return (quick(convolve)(x, kernel) * g).sum()

    found = jax.grad(total)(jnp.zeros((2, 1, 1)))
    np.testing.assert_allclose(found[:, 0, 0], [1 * 10 + 2 * 1, 2 * 10 + 3 * 1])


def test_low_precision_keeps_its_type():
    x, kernel = X.astype("bfloat16"), KERNEL.astype("bfloat16")
    found, expected = (
        quick_jit(jax.grad(loss(fn), (0, 1)))(x, kernel) for fn in (quick(same), same)
    )
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype("float32"), other.astype("float32"), atol=0.3)


# -------------------------------------------------------------------------------- what is computed


def in_loop(fn):
    return lambda x, k: lax.scan(lambda x, _: (fn(x, k), None), x, None, length=2)[0]


@pytest.mark.parametrize("around", [lambda fn: fn, in_loop], ids=["alone", "in a loop"])
@pytest.mark.parametrize("images", [2, 40], ids=["all images at once", "some at a time"])
def test_gradients_are_in_the_layout_that_xla_has_a_routine_for(around, images):
    """Axes 0 and last for images and channels, the last but one and the last of the kernel."""
    x, kernel = draw(0, images, 16, 16, 32), draw(1, 3, 3, 32, 32)
    fast = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

    def layouts(fn):
        gradient = program(jax.grad(loss(around(fn)), (0, 1)), x, kernel)
        found = equations(gradient, "conv_general_dilated")
        return [tuple(eqn.params["dimension_numbers"]) for eqn in found]

    assert set(layouts(quick(same))) == {fast}
    assert set(layouts(same)) > {fast}


@pytest.mark.parametrize(
    ("shape", "filters", "lengths"),
    [
        # 2^20 bytes are 8 images of 32 x 32 positions with 16 + 16 channels of 4 bytes.
        ((24, 32, 32, 16), 16, [3]),
        ((8, 32, 32, 16), 16, []),
        # A kernel of 2,304 x 256 entries is as large as 18 images of 131,072 bytes.
        ((36, 8, 8, 256), 256, [2]),
    ],
)
def test_as_many_images_at_a_time_as_the_cache_or_the_kernel_has_room_for(shape, filters, lengths):
    x, kernel = jnp.zeros(shape), jnp.zeros((3, 3, shape[-1], filters))
    gradient = program(jax.grad(loss(quick(same)), 1), x, kernel)
    assert [eqn.params["length"] for eqn in equations(gradient, "scan")] == lengths


@pytest.mark.parametrize(
    ("map_", "wide", "channels", "at_once"),
    [
        ((6, 8), 3, 16, 2),  # 32 channels
        pytest.param((6, 8), 3, 8, 4, marks=pytest.mark.slow),
        ((8,), 3, 5, 2),
        ((6, 9), 3, 16, 1),  # an odd width
        pytest.param((6, 10), 3, 8, 2, marks=pytest.mark.slow),  # of which 4 is no divisor
        pytest.param((6, 8), 3, 17, 1, marks=pytest.mark.slow),  # 34 would be more than needed
        pytest.param((6, 8), 5, 20, 2, marks=pytest.mark.slow),  # unless the kernel is wide
        pytest.param((4, 3, 8), 2, 16, 2, marks=pytest.mark.slow),
    ],
)
def test_narrow_results_are_computed_several_places_at_once(map_, wide, channels, at_once):
    x = draw(0, 2, *map_, channels)
    kernel = draw(1, *[wide] * len(map_), channels, channels)
    spatial = "DHW"[3 - len(map_) :]
    layout = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")

    def plain(x, kernel):
        ones = (1,) * len(map_)
        return lax.conv_general_dilated(x, kernel, ones, "SAME", dimension_numbers=layout)

    def gradients_of(fn):
        return jax.grad(loss(fn), argnums=(0, 1))

    assert_close(quick(plain)(x, kernel), plain(x, kernel))
    assert_close(gradients_of(quick(plain))(x, kernel), gradients_of(plain)(x, kernel))
    found = [
        (eqn.params["window_strides"][-1], eqn.params["lhs_dilation"][-1])
        for eqn in equations(program(gradients_of(quick(plain)), x, kernel), CONVOLUTION)
    ]
    # The result and the gradients of the images and of the kernel; the last reads with gaps.
    assert sorted(found) == [(1, 1), (at_once, 1), (at_once, 1)]


def test_the_kernel_of_two_places_by_hand():
    kernel = jnp.array([[1.0], [2.0], [3.0]])[..., None]
    blocks = gradients._kernel_of_blocks(kernel, 2)
    np.testing.assert_array_equal(blocks[:, 0], [[1, 0], [2, 1], [3, 2], [0, 3]])


@pytest.mark.parametrize(("groups", "left"), [(2, 3), (4, 2)])
def test_no_gradient_of_a_kernel_is_a_convolution_in_groups(groups, left):
    """Two groups of channels one after the other; four channels each alone: products."""
    kernel = draw(1, 3, 3, 4 // groups, 4)
    gradient = program(jax.grad(loss(quick(lambda *args: same(*args, groups))), 1), X, kernel)
    assert all(
        eqn.params["batch_group_count"] == 1 for eqn in equations(gradient, "conv_general_dilated")
    )
    assert len(list(equations(gradient, "conv_general_dilated"))) == left - 1


def test_the_way_back_keeps_the_images_once():
    x = draw(0, 40, 16, 16, 32)
    _, back = jax.vjp(quick(same), x, draw(1, 3, 3, 32, 32))
    kept = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(back) if leaf.ndim > 3)
    assert kept <= x.size + 2 * 3 * 3 * 32 * 32


def test_nothing_changes_where_it_is_not_asked_for():
    assert str(jax.make_jaxpr(lower(same, backend="cpu"))(X, KERNEL)) == str(
        jax.make_jaxpr(same)(X, KERNEL)
    )
    assert lower(same, differentiated=True, backend="gpu") is same


def test_integers_and_swapped_groups_stay():
    def swapped(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, batch_group_count=2
        )

    x, kernel = draw(0, 4, 5, 5, 3), draw(1, 3, 3, 3, 4)
    assert "custom_jvp" not in str(jax.make_jaxpr(quick(swapped))(x, kernel))
    whole = X.astype("int32"), KERNEL.astype("int32")
    assert "custom_jvp" not in str(jax.make_jaxpr(quick(same))(*whole))
