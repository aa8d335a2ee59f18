"""Masked and compact networks agree on every network of the zoo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dependency.checks import assert_close, quick_jit, random_masks, sliced
from jaxprune import compact, masked
from zoo import NAMES
from zoo.removal import doubles, traced, training_step

SLOW_TO_TRAIN = set(
    """vgg resnet_bottleneck densenet convnext mobilenet_v3 shufflenet_v2 unet unet_resize vit
    temporal_cnn""".split()  # noqa: SIM905 - names read better as words
)


@pytest.mark.parametrize("name", NAMES)
def test_inference(name):
    """Full masks change no bit; masked equals compact."""
    network, structure = traced(name)
    function = quick_jit(masked(network.apply, structure))
    everything, dense = structure.full_masks(), quick_jit(network.apply)
    whole = quick_jit(lambda v, x: masked(network.apply, structure)(v, everything, x))
    np.testing.assert_array_equal(
        whole(network.variables, network.x), dense(network.variables, network.x)
    )
    assert_close(
        function(network.variables, everything, network.x), dense(network.variables, network.x)
    )

    masks = random_masks(structure, 0)
    small = compact(network.apply, structure, network.variables, masks)
    expected = function(network.variables, masks, network.x)
    assert_close(quick_jit(small)(small.params, network.x), expected, tolerance=1e-5)
    assert_close(small.params, sliced(structure, network.variables, masks), tolerance=0)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_TO_TRAIN)) for name in NAMES],
)
def test_training_step(name):
    """Loss, updated parameters and new statistics, in double precision where it has that."""
    network, structure = traced(name)
    masks = random_masks(structure, 1)
    step = training_step(network)
    tolerance = 1e-9 if network.double else 2e-5
    with jax.enable_x64(network.double):
        arguments = network.variables, network.x, network.y, masks
        variables, x, y, masks = doubles(arguments) if network.double else arguments
        big, big_loss = quick_jit(masked(step, structure))(variables, masks, x, y)
        small = compact(step, structure, variables, masks)
        little, little_loss = quick_jit(small)(small.params, x, y)
        assert_close(little_loss, big_loss, tolerance=tolerance)
        assert_close(little, sliced(structure, big, masks), tolerance=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradient(name):
    """The gradient in inference mode, with masks inside and outside of the differentiation."""
    network, structure = traced(name)
    masks = random_masks(structure, 2)
    small = compact(network.apply, structure, network.variables, masks)

    def gradient(apply, variables, *masks):
        params = variables["params"] if network.stateful else variables

        def objective(params):
            whole = {**variables, "params": params} if network.stateful else params
            return jnp.sum(jnp.sin(apply(whole, *masks, network.x)))

        found = jax.grad(objective)(params)
        return {**variables, "params": found} if network.stateful else found

    function = masked(network.apply, structure)
    big = quick_jit(lambda variables: gradient(function, variables, masks))(network.variables)
    little = quick_jit(lambda variables: gradient(small, variables))(small.params)
    assert_close(little, sliced(structure, big, masks), tolerance=5e-5)
