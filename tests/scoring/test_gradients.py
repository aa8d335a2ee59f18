"""Quick gradients of convolutions' kernels: XLA's own numbers, under every transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxprune.scoring.lowering import gradients, lower

NHWC = ("NHWC", "HWIO", "NHWC")


@pytest.fixture(autouse=True)
def small_cache(monkeypatch):
    """A cache that holds two or three of the tests' images, so that there are groups."""
    monkeypatch.setattr(gradients, "CACHE", 2**10)


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def same(x, kernel, **options):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, **options)


def equation(fn, *args):
    (eqn,) = jax.make_jaxpr(fn)(*args).eqns
    return eqn


def close(found, expected):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected
    )


X, KERNEL = draw(0, 7, 6, 6, 4), draw(1, 3, 3, 4, 5)
QUICK = lower(same, backend="cpu")


def loss(convolve):
    return lambda x, kernel: jnp.sin(convolve(x, kernel)).sum()


def test_the_tests_convolution_is_in_groups():
    # An image has 6 x 6 x (4 + 5) x 4 = 1,296 bytes, more than the cache: one image a group.
    assert gradients.group_size(equation(same, X, KERNEL)) == 1
    program = str(jax.make_jaxpr(jax.grad(loss(QUICK), 1))(X, KERNEL))
    assert program.count("conv_general_dilated") == 1 + 7


@pytest.mark.parametrize(
    ("x", "kernel", "cache", "size"),
    [
        # 32 x 32 x (64 + 64) x 4 bytes = 512 KiB an image, 2 MiB of cache
        ((128, 32, 32, 64), (3, 3, 64, 64), 2**21, 4),
        # 128 KiB an image
        ((128, 32, 32, 16), (3, 3, 16, 16), 2**21, 16),
        # 16 groups of 16 or fewer would do for 250 images; they are made equal
        ((250, 32, 32, 16), (3, 3, 16, 16), 2**21, 16),
        # all images fit
        ((16, 32, 32, 16), (3, 3, 16, 16), 2**21, None),
        # 64 KiB an image; the kernel has 9 MiB, and so must a group: all 128 have 8
        ((128, 4, 4, 512), (3, 3, 512, 512), 2**21, None),
        # one image is more than the cache, and 64 groups are the most
        ((256, 32, 32, 512), (3, 3, 512, 512), 2**21, 4),
        # three dimensions, which XLA computes otherwise
        ((128, 16, 16, 16, 16), (3, 3, 3, 16, 16), 2**21, None),
        ((1, 32, 32, 512), (3, 3, 512, 512), 2**21, None),
    ],
    ids=str,
)
def test_groups_fill_the_cache(x, kernel, cache, size, monkeypatch):
    monkeypatch.setattr(gradients, "CACHE", cache)
    spatial = "DHW"[-(len(x) - 2) :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")

    def convolve(x, kernel):
        ones = (1,) * len(spatial)
        return lax.conv_general_dilated(x, kernel, ones, "SAME", dimension_numbers=numbers)

    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (x, kernel))
    assert gradients.group_size(equation(convolve, *shapes)) == size


def check_gradients(data):
    dimensions = data.draw(st.integers(1, 3), "dimensions")
    drawn = [
        (
            data.draw(st.integers(1, 5), "map"),
            data.draw(st.integers(1, 3), "kernel"),
            data.draw(st.integers(1, 3), "stride"),
            data.draw(st.integers(1, 2), "dilation of the kernel"),
            data.draw(st.integers(1, 2), "dilation of the map"),
            (data.draw(st.integers(0, 3), "before"), data.draw(st.integers(0, 3), "after")),
        )
        for _ in range(dimensions)
    ]
    maps, kernels, strides, dilations, spread, padding = zip(*drawn, strict=True)
    groups = data.draw(st.sampled_from([1, 2, 4]), "groups of channels")
    axes = [data.draw(st.permutations(range(dimensions + 2)), "axes") for _ in range(3)]
    x, kernel = draw(0, 5, 4, *maps), draw(1, 4 * 2, 4 // groups, *kernels)
    x = x.transpose(np.argsort(axes[0]))
    kernel = kernel.transpose(np.argsort(axes[1]))

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            spread,
            dilations,
            lax.ConvDimensionNumbers(*map(tuple, axes)),
            feature_group_count=groups,
        )

    def in_a_loop(x, kernel):
        return lax.scan(lambda done, x: (done, convolve(x, kernel)), None, x[None])[1][0]

    if 0 in convolve(x, kernel).shape:
        return
    expected = jax.grad(loss(convolve), (0, 1))(x, kernel)
    close(jax.grad(loss(lower(convolve, backend="cpu")), (0, 1))(x, kernel), expected)
    close(jax.grad(loss(lower(in_a_loop, backend="cpu")), (0, 1))(x, kernel), expected)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_gradients_are_xlas_for_all_windows_and_layouts(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "CACHE", 300)
        check_gradients(data)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_gradients_are_xlas_for_many_windows_and_layouts(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradients, "CACHE", 300)
        check_gradients(data)


def second_derivative(convolve):
    return jax.grad(lambda x, kernel: (jax.grad(loss(convolve), 1)(x, kernel) ** 2).sum(), (0, 1))


def directional(convolve):
    return lambda x, kernel: jax.jvp(convolve, (x, kernel), (x[::-1], kernel[::-1]))


def in_the_kernel_alone(convolve):
    return lambda x, kernel: jax.jvp(lambda kernel: convolve(x, kernel), (kernel,), (kernel,))


def forward_over_reverse(convolve):
    gradient = jax.grad(loss(convolve), 1)
    return lambda x, kernel: jax.jvp(lambda k: gradient(x, k), (kernel,), (kernel[::-1],))


def under_vmap(convolve):
    each = jax.vmap(jax.grad(loss(convolve), (0, 1)), (None, 0))
    return lambda x, kernel: each(x, jnp.stack([kernel, -kernel, 2 * kernel]))


def rematerialised(convolve):
    return jax.grad(jax.checkpoint(loss(convolve)), (0, 1))


def in_a_scan(convolve):
    def total(x, kernel):
        def body(done, x):
            return done + loss(convolve)(x, kernel), None

        return lax.scan(body, 0.0, jnp.stack([x, 2 * x]))[0]

    return jax.grad(total, (0, 1))


@pytest.mark.parametrize(
    "transformation",
    [
        second_derivative,
        directional,
        in_the_kernel_alone,
        forward_over_reverse,
        under_vmap,
        rematerialised,
        in_a_scan,
    ],
    ids=lambda transformation: transformation.__name__,
)
def test_transformations(transformation):
    expected = transformation(same)(X, KERNEL)
    close(jax.jit(transformation(QUICK))(X, KERNEL), expected)


def test_a_loop_of_the_function_multiplies_matrices():
    """Where `lower` sees the loop, the kernel's gradient has no convolution in it."""

    def twice(x, kernel):
        return lax.scan(lambda x, _: (same(x, kernel), None), x, length=2)[0]

    x, kernel = draw(0, 3, 5, 5, 4), draw(1, 3, 3, 4, 4)
    gradient = jax.grad(loss(lower(twice, backend="cpu")), 1)
    # forward, and the gradient of the input
    assert str(jax.make_jaxpr(gradient)(x, kernel)).count("conv_general_dilated") == 2
    close(gradient(x, kernel), jax.grad(loss(twice), 1)(x, kernel))


def test_what_is_not_differentiated_costs_nothing():
    def program(convolve, argument):
        return jax.make_jaxpr(jax.grad(loss(convolve), argument))(X, KERNEL)

    assert str(program(QUICK, 0)).count("conv_general_dilated") == 2  # forward, and the input's
    assert gradients.group_size(equation(lambda x: x * 2, X)) is None
