"""The ghost module: a convolution half of whose outputs are cheap functions of the other half."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class Ghost(nn.Module):
    """A convolution of few filters, and a depthwise one that makes more maps of theirs.

    Han et al., "GhostNet: more features from cheap operations" (CVPR 2020, arXiv 1911.11907, eqs. 2
    and 3, figure 1b). Of n output channels, m = n / ratio, rounded up, come from an ordinary
    convolution; each of these gets ratio - 1 ghosts by a small depthwise convolution; both are
    concatenated, and what is over n is cut off. BatchNorm follows either convolution, as in the
    authors' code.

    When a channel is pruned, its ghosts go with it: they are one channel to `jaxprune.trace`. With
    a ratio above 2, the second, third, ... ghost of all channels can go, too.

    Attributes:
        features: Output channels, n.
        kernel_size: Window of the ordinary convolution.
        stride: Its stride.
        ratio: Output channels for each of its filters, at least 1 (the paper's s).
        cheap_size: Window of the depthwise convolution (the paper's d).
        activated: Whether a ReLU follows each BatchNorm; not before a residual sum.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    ratio: int = 2
    cheap_size: int = 3
    activated: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps `[B, H, W, C]` to `[B, H', W', features]`."""

        def normalised(y: Array, name: str) -> Array:
            y = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)(y)
            return nn.relu(y) if self.activated else y

        few, ghosts = -(-self.features // self.ratio), self.ratio - 1
        x = nn.Conv(
            few,
            (self.kernel_size, self.kernel_size),
            self.stride,
            padding=self.kernel_size // 2,
            use_bias=False,
            name="conv",
        )(x)
        x = normalised(x, "bn")
        if not ghosts:
            return x
        cheap = nn.Conv(
            few * ghosts,
            (self.cheap_size, self.cheap_size),
            padding=self.cheap_size // 2,
            feature_group_count=few,
            use_bias=False,
            name="cheap",
        )(x)
        x = jnp.concatenate([x, normalised(cheap, "bn_cheap")], axis=-1)
        return x[..., : self.features] if few * self.ratio > self.features else x
