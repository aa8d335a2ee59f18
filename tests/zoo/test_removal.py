"""Masked and compact networks agree on every network of the zoo."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dependency.checks import assert_close, quick_jit, random_masks, sliced
from jaxprune import compact, masked
from marks import slow_if_in
from zoo import NAMES
from zoo.removal import in_best_precision, traced, training_step

SLOW_TO_RUN = (
    "mobilenet_v3",
    "convnext",
    "shufflenet_v2",
    "unet_resize",
    "mobilenet_v2",
    "efficientnet",
    "equinox_batchnorm",
    "haiku_resnet",
)
"""Each has a relative that is quicker."""

SLOW_TO_TRAIN = set(
    """vgg resnet resnet_bottleneck densenet convnext mobilenet_v2 mobilenet_v3 efficientnet
    shufflenet_v2 unet unet_resize vit temporal_cnn haiku_resnet resnext resnet_groupnorm
    remat_resnet llama nnx_transformer equinox_cnn equinox_transformer equinox_batchnorm
    autoencoder mixer""".split()  # noqa: SIM905 - names read better as words
)


@pytest.mark.parametrize("name", slow_if_in(SLOW_TO_RUN, NAMES))
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


@pytest.mark.parametrize("name", slow_if_in(SLOW_TO_TRAIN, NAMES))
def test_training_step(name):
    """Loss, updated parameters and new statistics, in double precision where it has that."""
    network, structure = traced(name)
    masks = random_masks(structure, 1)
    step = training_step(network)
    with in_best_precision(network) as (convert, tolerance):
        variables, x, y, masks = convert((network.variables, network.x, network.y, masks))
        big, big_loss = quick_jit(masked(step, structure))(variables, masks, x, y)
        small = compact(step, structure, variables, masks)
        little, little_loss = quick_jit(small)(small.params, x, y)
        assert_close(little_loss, big_loss, tolerance)
        assert_close(little, sliced(structure, big, masks), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gradient(name):
    """The gradient in inference mode, of the masked and of the compact function."""
    network, structure = traced(name)
    masks = random_masks(structure, 2)

    def gradient(apply, variables, x):
        params = variables["params"] if network.stateful else variables

        def objective(params):
            whole = {**variables, "params": params} if network.stateful else params
            return jnp.sum(jnp.sin(apply(whole, x)))

        found = jax.grad(objective)(params)
        return {**variables, "params": found} if network.stateful else found

    with in_best_precision(network) as (convert, tolerance):
        variables, x, masks = convert((network.variables, network.x, masks))
        function = masked(network.apply, structure)
        small = compact(network.apply, structure, variables, masks)
        big = quick_jit(partial(gradient, lambda variables, x: function(variables, masks, x)))
        little = quick_jit(partial(gradient, small))
        expected = sliced(structure, big(variables, x), masks)
        assert_close(little(small.params, x), expected, tolerance)
