"""A compact network as StableHLO with a free batch size."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxprune.dependency import CompactNetwork

PLATFORMS = ("cpu", "cuda", "tpu")
"""Where the exported programs run."""


def stablehlo(small: CompactNetwork, x: Any) -> jax_export.Exported:
    """A compact network as a StableHLO program for any batch size, on CPU, CUDA and TPU.

    ::

        exported = jaxprune.networks.export.stablehlo(small, x)
        logits = exported.call(small.params, x[:3])
        text = exported.mlir_module()
        content = exported.serialize()  # jax.export.deserialize reads it, without the model's code

    `jaxprune.save` writes it to a folder together with the parameters.

    Args:
        small: The network. It must treat the examples of a batch independently, as networks do in
            inference mode: the batch size is left open by mapping over examples. (A compact network
            is specialised to concrete shapes and cannot be traced with a symbolic size.)
        x: Any batch of inputs, `[B, ...]`; only its shape and type matter.

    Returns:
        The program; its `call(params, x)` takes a tree like `small.params` and `[batch, ...]`.
    """
    params = jax.eval_shape(lambda: small.params)
    return export(over_examples(small), (params,), np.shape(x)[1:], jax.numpy.result_type(x))


def export(
    function: Callable[..., Any],
    leading: tuple[Any, ...],
    example_shape: tuple[int, ...],
    dtype: Any,
) -> jax_export.Exported:
    """Exports `function(*leading, x)` for a symbolic number of examples.

    Args:
        function: What is exported.
        leading: The arguments before x, such as parameters: trees of `jax.ShapeDtypeStruct`s.
        example_shape: Shape of one example, without the batch axis.
        dtype: Data type of the examples.
    """
    batch = jax_export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((*batch, *example_shape), dtype)
    return jax_export.export(jax.jit(function), platforms=PLATFORMS)(*leading, x)


def over_examples(small: CompactNetwork) -> Callable[[Any, Any], Any]:
    """The network `(params, x)`, evaluated for one example and mapped over any number of them."""

    def network(params: Any, x: Any) -> Any:
        one = jax.vmap(lambda example: small(params, example[None]))(x)
        return jax.tree.map(lambda outputs: outputs[:, 0], one)

    return network
