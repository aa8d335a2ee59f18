"""Convolutions of small maps as matrix products: the same numbers, and only where they pay."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxprune.errors import UserError
from jaxprune.networks import bundled
from jaxprune.scoring import lowering
from jaxprune.scoring.lowering import convolutions as convolutions_of
from jaxprune.scoring.lowering import lower, pooling


def convolutions(fn, *args):
    """How many convolutions a function's program has, those of called functions included."""
    return str(jax.make_jaxpr(fn)(*args)).count("conv_general_dilated")


def draw(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def same(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def check_convolution(data):
    dimensions = data.draw(st.integers(1, 3), "dimensions")
    drawn = [
        (
            data.draw(st.integers(1, 4), "map"),
            data.draw(st.integers(1, 4), "kernel"),
            data.draw(st.integers(1, 3), "stride"),
            data.draw(st.integers(1, 2), "dilation"),
            (data.draw(st.integers(0, 3), "before"), data.draw(st.integers(0, 3), "after")),
        )
        for _ in range(dimensions)
    ]
    maps, kernels, strides, dilations, padding = zip(*drawn, strict=True)
    x, kernel = draw(0, 2, 3, *maps), draw(1, 5, 3, *kernels)
    input_axes, kernel_axes, output_axes = (
        data.draw(st.permutations(range(dimensions + 2)), "axes") for _ in range(3)
    )

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x.transpose(np.argsort(input_axes)),
            kernel.transpose(np.argsort(kernel_axes)),
            strides,
            padding,
            rhs_dilation=dilations,
            dimension_numbers=lax.ConvDimensionNumbers(
                tuple(input_axes), tuple(kernel_axes), tuple(output_axes)
            ),
        )

    expected = convolve(x, kernel)
    actual = lower(convolve, backend="cpu")(x, kernel)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_equals_the_convolution_for_all_windows_and_layouts(data):
    check_convolution(data)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_convolution_for_many_windows_and_layouts(data):
    check_convolution(data)


@pytest.mark.parametrize(
    ("extent", "left"), [(1, 0), (2, 0), (3, 1), (8, 1)], ids=["1", "2", "3", "8"]
)
def test_only_maps_smaller_than_the_kernel(extent, left):
    x, kernel = draw(0, 2, extent, extent, 4), draw(1, 3, 3, 4, 6)
    assert convolutions(lower(same, backend="cpu"), x, kernel) == left


@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_of_one_position_are_products(stride):
    """In the derivatives, too."""
    x, kernel = draw(0, 2, 5, 5, 4), draw(1, 1, 1, 4, 6)

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride,) * 2, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def loss(fn):
        return jax.grad(lambda x, kernel: jnp.sin(fn(x, kernel)).sum(), (0, 1))

    lowered = lower(convolve, backend="cpu")
    assert convolutions(loss(lowered), x, kernel) == 0
    np.testing.assert_allclose(lowered(x, kernel), convolve(x, kernel), atol=1e-5)
    for found, expected in zip(loss(lowered)(x, kernel), loss(convolve)(x, kernel), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def products(fn, *args):
    return str(jax.make_jaxpr(fn)(*args)).count("dot_general")


def test_a_product_for_each_position_that_meets_the_map():
    x, kernel = draw(0, 2, 1, 4, 4), draw(1, 3, 3, 4, 6)

    def halve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers)

    # One row of the kernel, three columns: the first output does not read the last input.
    assert products(lower(halve, backend="cpu"), x, kernel) == 3


def test_one_product_where_each_output_reads_each_input():
    x, kernel = draw(0, 64, 1, 2, 4), draw(1, 3, 3, 4, 6)
    assert products(lower(same, backend="cpu"), x, kernel) == 1
    expected = np.zeros((64, 1, 2, 6), np.float32)
    for column, place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        expected[:, 0, place] += x[:, 0, column] @ kernel[1, 1 + column - place]
    np.testing.assert_allclose(lower(same, backend="cpu")(x, kernel), expected, atol=1e-5)


def test_a_kernel_is_unrolled_where_the_examples_are_worth_it():
    """2 x 2 positions read as many: 16 times 96 x 96 entries are more than 2^14 for each of 8."""
    kernel = draw(1, 3, 3, 96, 96)
    for examples, count in ((8, 9), (9, 1)):
        assert products(lower(same, backend="cpu"), draw(0, examples, 2, 2, 96), kernel) == count
    x = draw(0, 1, 2, 2, 96)
    assert products(lowering.lower_known(same, backend="cpu"), x, kernel) == 1
    np.testing.assert_allclose(
        lowering.lower_known(same, backend="cpu")(x, kernel), same(x, kernel), atol=1e-3
    )


def test_other_convolutions_stay():
    x = draw(0, 2, 2, 2, 4)

    def depthwise(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def transposed(x, kernel):
        return lax.conv_transpose(x, kernel, (2, 2), "VALID")

    assert convolutions(lower(depthwise, backend="cpu"), x, draw(1, 3, 3, 1, 4)) == 1
    assert convolutions(lower(transposed, backend="cpu"), x, draw(1, 3, 3, 4, 6)) == 1


def test_other_backends_keep_the_function():
    assert lower(same, backend="gpu") is same
    assert lower(same, backend="tpu") is same


def test_the_environment_switches_it_off(monkeypatch):
    monkeypatch.setenv("JAXPRUNE_LOWERING", "off")
    assert lower(same, backend="cpu") is same
    assert lowering.lower_known(same, backend="cpu") is same
    monkeypatch.setenv("JAXPRUNE_LOWERING", "no")
    with pytest.raises(UserError, match="JAXPRUNE_LOWERING=no: it can be on or off"):
        lower(same, backend="cpu")


def test_derivatives():
    x, kernel = draw(0, 2, 2, 2, 4), draw(1, 3, 3, 4, 6)

    def loss(fn):
        return lambda x, kernel: jnp.sum(jnp.sin(fn(x, kernel)))

    expected = jax.grad(loss(same), (0, 1))(x, kernel)
    quick = jax.grad(loss(lower(same, backend="cpu")), (0, 1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), quick(x, kernel), expected
    )
    assert convolutions(quick, x, kernel) == 0


def test_many_inputs_at_once_share_the_kernel():
    x, kernel = draw(0, 7, 2, 2, 2, 4), draw(1, 3, 3, 4, 6)
    many = jax.jit(jax.vmap(lower(same, backend="cpu"), (0, None)))
    np.testing.assert_allclose(
        many(x, kernel), jax.vmap(same, (0, None))(x, kernel), rtol=1e-4, atol=1e-5
    )
    assert "[7,4,6]" not in str(jax.make_jaxpr(many)(x, kernel))


def through(name):
    """The convolution, three times over, inside a call."""

    def scan(x, kernel):
        def body(carry, scale):
            carry = jnp.tanh(same(carry, kernel * scale))
            return carry, carry.sum()

        return lax.scan(body, x, jnp.arange(1.0, 4.0), reverse=True)

    def remat(x, kernel):
        for _ in range(3):
            x = jax.checkpoint(lambda x: jnp.tanh(same(x, kernel)))(x)
        return x

    def jit(x, kernel):
        for _ in range(3):
            x = jax.jit(lambda x, k: jnp.tanh(same(x, k)))(x, kernel)
        return {"out": x}

    return {"scan": scan, "remat": remat, "jit": jit}[name]


@pytest.mark.parametrize("name", ["scan", "remat", "jit"])
def test_enters_calls(name):
    x, kernel = draw(0, 2, 2, 2, 4), draw(1, 3, 3, 4, 4) / 4
    fn = through(name)
    quick = lower(fn, backend="cpu")
    assert convolutions(fn, x, kernel) > 0
    assert convolutions(quick, x, kernel) == 0
    expected, actual = fn(x, kernel), quick(x, kernel)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)

    def loss(fn):
        return lambda k: jnp.sum(jnp.square(jax.tree.leaves(fn(x, k))[0]))

    np.testing.assert_allclose(
        jax.grad(loss(quick))(kernel), jax.grad(loss(fn))(kernel), rtol=1e-4, atol=1e-5
    )


def test_custom_derivatives_are_left_alone():
    @jax.custom_jvp
    def odd(x, kernel):
        return same(x, kernel)

    @odd.defjvp
    def _(primals, tangents):
        return odd(*primals), 2 * same(tangents[0], primals[1])

    x, kernel = draw(0, 2, 2, 2, 4), draw(1, 3, 3, 4, 4)
    quick = lower(odd, backend="cpu")
    assert convolutions(quick, x, kernel) == 1
    _, tangent = jax.jvp(lambda x: quick(x, kernel), (x,), (x,))
    np.testing.assert_allclose(tangent, 2 * same(x, kernel), atol=1e-5)


def test_low_precision_keeps_its_type():
    x, kernel = draw(0, 2, 2, 2, 4).astype("bfloat16"), draw(1, 3, 3, 4, 6).astype("bfloat16")
    actual = lower(same, backend="cpu")(x, kernel)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        actual.astype("float32"), same(x, kernel).astype("float32"), atol=0.15
    )


@pytest.mark.slow
def test_vgg11_ends_in_two_such_convolutions():
    network = bundled.build("vgg11", (32, 32, 3))
    variables = network.init(jax.random.key(0))
    x = draw(1, 2, 32, 32, 3)
    before = convolutions(network.apply, variables, x)
    quick = lower(network.apply, backend="cpu")
    assert (before, convolutions(quick, variables, x)) == (8, 6)
    expected = jax.jit(network.apply)(variables, x)
    np.testing.assert_allclose(
        jax.jit(quick)(variables, x), expected, atol=1e-5 * float(jnp.abs(expected).max())
    )


def test_large_kernels_stay_so_that_programs_stay_small():
    x = draw(0, 1, 4, 4, 1)
    assert convolutions_of.MOST_PRODUCTS == 49

    def dilated(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            rhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    assert convolutions(lower(dilated, backend="cpu"), x, draw(1, 7, 7, 1, 1)) == 0
    assert convolutions(lower(dilated, backend="cpu"), x, draw(1, 7, 8, 1, 1)) == 1


# ------------------------------------------------------------------------------------------ pooling


def largest(window, strides=None, padding="VALID"):
    """Max-pooling."""
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides or window, padding)


def pools(fn, x):
    return "reduce_window_max" in str(jax.make_jaxpr(fn)(x))


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.data())
def test_pooling_and_its_derivative_are_the_same_where_values_are_equal(data):
    dimensions = data.draw(st.integers(1, 4), "dimensions")
    window = tuple(data.draw(st.integers(1, 3), "window") for _ in range(dimensions))
    shape = tuple(data.draw(st.integers(size, 7), "extent") for size in window)
    x = jnp.round(draw(data.draw(st.integers(0, 9)), *shape))  # many values occur twice
    pool = largest(window)
    small = math.prod(window) <= pooling.MOST_SLICES
    assert pools(lower(pool, backend="cpu"), x) == (not small)
    ours = jax.jit(lower(pool, backend="cpu"))
    np.testing.assert_array_equal(ours(x), pool(x))
    weights = draw(1, *pool(x).shape)
    derivatives = [
        jax.jit(jax.grad(lambda x, fn=fn: (fn(x) * weights).sum()))(x) for fn in (pool, ours)
    ]
    np.testing.assert_array_equal(*derivatives)


def test_what_is_no_number_stays_so_in_every_place_of_a_window():
    x = jnp.where(jnp.eye(4).reshape(4, 2, 2) > 0, jnp.nan, 1.0)
    assert jnp.isnan(lower(largest((1, 2, 2)), backend="cpu")(x)).all()


@pytest.mark.parametrize(
    "pool", [largest((2,), (1,)), largest((2,), padding=((1, 1),)), largest((64,))]
)
def test_windows_that_overlap_are_padded_or_are_large_stay(pool):
    assert pools(lower(pool, backend="cpu"), draw(0, 128))
