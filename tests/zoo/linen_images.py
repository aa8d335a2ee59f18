"""From images to images in Flax Linen: skip connections, transposed convolutions, resizing."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.network import BATCH, from_linen, integers, normal, squared_error


class DoubleConv(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train: bool):
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.relu(x)
        return x


class UNet(nn.Module):
    features: tuple[int, ...] = (6, 8)
    bottom: int = 12
    classes: int = 3
    transposed: bool = True

    @nn.compact
    def __call__(self, x, train: bool = False):
        skips = []
        for i, features in enumerate(self.features):
            x = DoubleConv(features, name=f"down{i}")(x, train)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = DoubleConv(self.bottom, name="bottom")(x, train)
        for i, skip in reversed(list(enumerate(skips))):
            features = self.features[i]
            if self.transposed:
                x = nn.ConvTranspose(features, (2, 2), strides=(2, 2), name=f"upsample{i}")(x)
            else:
                x = jax.image.resize(x, (*skip.shape[:3], x.shape[-1]), method="nearest")
            x = jnp.concatenate([skip, x], axis=-1)
            x = DoubleConv(features, name=f"up{i}")(x, train)
        return nn.Conv(self.classes, (1, 1), name="segment")(x)


_UNET_LEAST = {
    "down0/Conv_0": (6,),
    "down0/Conv_1": (6,),
    "down1/Conv_0": (8,),
    "down1/Conv_1": (8,),
    "bottom/Conv_0": (12,),
    "bottom/Conv_1": (12,),
    "up1/Conv_0": (8,),
    "up1/Conv_1": (8,),
    "up0/Conv_0": (6,),
    "up0/Conv_1": (6,),
}


def unet():
    least = {**_UNET_LEAST, "upsample0": (6,), "upsample1": (8,)}
    labels = integers(BATCH, 8, 8, below=3)
    return from_linen(UNet(), normal(BATCH, 8, 8, 3), least, labels)


def unet_resize():
    labels = integers(BATCH, 8, 8, below=3)
    return from_linen(UNet(transposed=False), normal(BATCH, 8, 8, 3), _UNET_LEAST, labels)


class Autoencoder(nn.Module):
    encoder: tuple[int, int] = (8, 12)
    latents: int = 7
    decoder: tuple[int, int] = (10, 9)

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(self.encoder[0], (3, 3), strides=(2, 2), name="encode0")(x))
        x = nn.relu(nn.Conv(self.encoder[1], (3, 3), strides=(2, 2), name="encode1")(x))
        x = x.reshape((x.shape[0], -1))
        z = nn.Dense(self.latents, name="latent")(x)
        x = nn.relu(nn.Dense(2 * 2 * self.decoder[0], name="unflatten")(z))
        x = x.reshape((x.shape[0], 2, 2, self.decoder[0]))
        x = nn.relu(nn.ConvTranspose(self.decoder[1], (3, 3), strides=(2, 2), name="decode0")(x))
        return nn.ConvTranspose(3, (3, 3), strides=(2, 2), name="decode1")(x)


def autoencoder():
    least = {
        "encode0": (8,),
        "encode1": (12,),
        "latent": (7,),
        "unflatten": (10,),
        "decode0": (9,),
    }
    x = normal(BATCH, 8, 8, 3)
    return from_linen(Autoencoder(), x, least, x, squared_error)
