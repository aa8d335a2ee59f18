"""The policy/value network: Table 1 of the supplement, a VGG-16 of one-dimensional convolutions.

With `width=64` and the dense head it is the printed network: convolutions of 64, 64 / 128, 128 /
256 x 3 / 512 x 3 / 512 x 3 feature maps with kernel 3 and ReLU, a max-pool of 2 after each of the
five blocks, then one fully connected layer to N logits and one to a value in [-1, 1] (tanh). The
table lists neither batch normalisation nor hidden fully connected layers, and there are none.

Choices where the table says nothing, and departures from it:

- N is padded with zeros to a multiple of 32, so that the five pools divide it; the logits of the
  padding are cut off.
- `width` scales all feature maps: 64 is the table's, narrower networks search faster on a CPU.
- The `per_filter` head replaces the dense policy layer, which has `N/32 * 8 * width * N` weights
  (285 million for the 4,224 filters of VGG-16): each filter's logit comes from its own features
  before the first pool, joined with the features of the last block that cover it, through two
  dense layers shared by all filters.
- `initial_variables` draws the kernels from He's normal distribution, which keeps the scale of the
  activations through thirteen ReLU layers; biases and both heads start at zero, so that an
  untrained network neither prefers a filter nor expects an outcome.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.search.agents.mcts.features import NUM_FEATURES

BLOCKS = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))
"""Table 1: (feature maps in units of the width, number of convolutions) of each block."""

REDUCTION = 2 ** len(BLOCKS)
"""The five pools shrink N by this factor."""

DENSE_HEAD_LIMIT = 1024
"""With head "auto", the dense head serves up to this many filters, padding included."""

Head = Literal["auto", "dense", "per_filter"]


def padded(num_filters: int) -> int:
    """The least multiple of 32 that holds all filters."""
    return -(-num_filters // REDUCTION) * REDUCTION


def choose_head(head: Head, num_filters: int) -> Head:
    """What "auto" stands for: dense up to `DENSE_HEAD_LIMIT` filters, per filter above."""
    if head != "auto":
        return head
    return "dense" if padded(num_filters) <= DENSE_HEAD_LIMIT else "per_filter"


class Convolution(nn.Module):
    """A one-dimensional convolution of kernel 3, padded to keep the length, as a matrix product.

    The parameters are those of `nn.Conv(features, (3,))`. XLA's own convolution is as fast, except
    in a loop on a CPU: a scan of training steps is very slow with it (JAX issue 12868).

    Attributes:
        features: number of feature maps.
    """

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, L, C]` -> `[B, L, features]`."""
        batch, length, channels = x.shape
        shape = (3, channels, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, self.features)
        x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
        neighbours = [x[:, shift : shift + length] for shift in range(3)]
        columns = jnp.concatenate(neighbours, axis=-1).reshape(batch * length, 3 * channels)
        product = columns @ kernel.reshape(3 * channels, self.features)
        return product.reshape(batch, length, self.features) + bias


class PolicyValueNetwork(nn.Module):
    """Table 1 of the supplement.

    Attributes:
        width: feature maps of the first block; 64 in the table.
        head: "dense" as in the table, "per_filter" for many filters, "auto" to choose by size.
    """

    width: int = 64
    head: Head = "dense"

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        """Reads the features of all filters of a batch of states.

        Args:
            features: float32 `[B, N, F]`, F = 7 in the table.

        Returns:
            Policy logits `[B, N]`, over all filters whether legal or not, and values `[B]` in
            [-1, 1].
        """
        batch, num_filters, _ = features.shape
        x = jnp.pad(features, ((0, 0), (0, padded(num_filters) - num_filters), (0, 0)))
        first_block = x
        for block, (multiple, convolutions) in enumerate(BLOCKS, start=1):
            for index in range(1, convolutions + 1):
                x = Convolution(multiple * self.width, name=f"conv{block}_{index}")(x)
                x = nn.relu(x)
            first_block = x if block == 1 else first_block
            x = nn.max_pool(x, window_shape=(2,), strides=(2,))

        flat = x.reshape(batch, -1)
        value = nn.Dense(1, name="fc6_2")(flat)
        if choose_head(self.head, num_filters) == "dense":
            policy = nn.Dense(padded(num_filters), name="fc6_1")(flat)
        else:
            context = jnp.repeat(x, REDUCTION, axis=1)
            policy = jnp.concatenate([first_block, context], axis=-1)
            policy = nn.relu(nn.Dense(self.width, name="filter_hidden")(policy))
            policy = nn.Dense(1, name="filter_logit")(policy)[..., 0]
        return policy[:, :num_filters], jnp.tanh(value[:, 0])


def initial_variables(network: PolicyValueNetwork, num_filters: int, key: Array) -> dict:
    """Draws the parameters of an untrained network.

    All kernels come from one draw of random numbers: a draw for each, as Flax makes them, takes
    longer to compile than the network itself.

    Args:
        network: the network.
        num_filters: N.
        key: consumed.

    Returns:
        The variables, with zeros for the biases and the two heads.
    """
    features = jax.ShapeDtypeStruct((1, num_filters, NUM_FEATURES), jnp.float32)
    shapes = jax.eval_shape(network.init, key, features)
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    numbers = np.asarray(jax.random.normal(key, (total,)))
    used = 0

    def draw(path: tuple, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        nonlocal used
        layer, kind = path[-2].key, path[-1].key
        part = numbers[used : used + shape.size].reshape(shape.shape)
        used += shape.size
        if kind != "kernel" or layer in ("fc6_1", "fc6_2", "filter_logit"):
            return np.zeros(shape.shape, np.float32)
        inputs = shape.size // shape.shape[-1]
        return np.asarray(part * np.sqrt(2 / inputs), np.float32)

    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))
