"""Small networks of many kinds, each written the way its library's users write it.

What `jaxprune` promises must hold on all of them: see the test files beside this one.
"""

from functools import cache
from importlib import import_module

from zoo.network import Network

_HOMES = {
    "linen_classifiers": """vgg resnet resnet_bottleneck resnet_groupnorm resnext densenet
        convnext""",
    "linen_mobile": "mobilenet_v2 mobilenet_v3 shufflenet_v2 efficientnet",
    "linen_images": "unet unet_resize autoencoder",
    "linen_tokens": "vit mixer",
    "linen_sequences": "temporal_cnn gru_embedding lstm_bidirectional",
    "linen_transforms": "dropout_mlp remat_resnet scanned_mlp",
    "plain_jax": "dict_mlp conv3d conv3d_channels_first cond_experts llama",
    "nnx_networks": "nnx_cnn nnx_transformer",
    "equinox_networks": "equinox_cnn equinox_batchnorm equinox_transformer",
    "haiku_networks": "haiku_resnet haiku_mlp",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

NAMES = tuple(_HOME_OF)


@cache
def build(name: str) -> Network:
    """The network of that name; skips the test that asks where its library is not installed."""
    return getattr(import_module(f"zoo.{_HOME_OF[name]}"), name)()
