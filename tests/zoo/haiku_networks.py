"""Networks in Haiku."""

import jax
import pytest

from jaxprune.networks.adapters import from_haiku
from zoo.network import BATCH, Network, cross_entropy, integers, normal, randomise

hk = pytest.importorskip("haiku")


def haiku_resnet():
    def forward(x, is_training):
        model = hk.nets.ResNet(
            blocks_per_group=(1, 1, 1, 1),
            num_classes=4,
            bottleneck=False,
            channels_per_group=(8, 8, 10, 12),
            use_projection=(False, False, True, True),
            strides=(1, 1, 2, 2),
            initial_conv_config={"output_channels": 8, "kernel_shape": 3, "stride": 1},
            name="resnet",
        )
        return model(x, is_training)

    resnet = hk.without_apply_rng(hk.transform_with_state(forward))
    x = normal(BATCH, 8, 8, 3)
    params, state = jax.eval_shape(lambda x: resnet.init(jax.random.key(0), x, True), x)
    apply, shapes = from_haiku(resnet, params, state, is_training=False)

    def loss(variables, x, y):
        logits, state = resnet.apply(variables["params"], variables["state"], x, is_training=True)
        return cross_entropy(logits, y), {"state": state}

    block = "resnet/~/block_group_{}/~/block_0/~/{}"
    least = {
        "resnet/~/initial_conv": (8,),
        block.format(0, "conv_0"): (8,),
        block.format(1, "conv_0"): (8,),
        block.format(2, "conv_0"): (10,),
        block.format(2, "shortcut_conv"): (10,),
        block.format(3, "conv_0"): (12,),
    }
    return Network(apply, randomise(shapes), x, integers(BATCH, below=4), loss, least)


def haiku_mlp():
    def forward(x, dropout_rate=None):
        key = None if dropout_rate is None else hk.next_rng_key()
        return hk.nets.MLP([12, 9, 4])(hk.Flatten()(x), dropout_rate=dropout_rate, rng=key)

    mlp = hk.transform(forward)
    x = normal(BATCH, 3, 4)
    apply, shapes = from_haiku(mlp, jax.eval_shape(lambda x: mlp.init(jax.random.key(0), x), x))

    def loss(params, x, y):
        return cross_entropy(mlp.apply(params, jax.random.key(3), x, dropout_rate=0.3), y), {}

    least = {"mlp/~/linear_0": (12,), "mlp/~/linear_1": (9,)}
    return Network(apply, randomise(shapes), x, integers(BATCH, below=4), loss, least)
