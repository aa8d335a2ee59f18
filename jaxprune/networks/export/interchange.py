"""A compact network as an ONNX file."""

import os
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from jaxprune.dependency import CompactNetwork
from jaxprune.errors import UserError, first_line
from jaxprune.files.trees import leaves_by_key, spelled
from jaxprune.networks.agreement import difference
from jaxprune.networks.export.batches import for_any_batch
from jaxprune.networks.export.examples import read
from jaxprune.networks.export.quiet import quiet


def onnx(path: str | os.PathLike[str], small: CompactNetwork, *inputs: Any) -> None:
    """Writes a compact network, with its parameters, as an ONNX model for any batch size.

    jax2onnx (github.com/enpasos/jax2onnx) translates the network's equations. onnxruntime then runs
    the model on `inputs` and on a batch of another size, and its outputs are compared with those of
    `small` before the file is written. A single array is the input "x"; others have the names that
    their places in the inputs give them, "0", "1", "0/mask". Prints and checks are left out.

    Args:
        path: The file. Its folder is made if missing.
        small: The network, with the parameters to write.
        *inputs: A batch of inputs as the network takes them, on which the model is checked.

    Raises:
        UserError: jax2onnx is not installed, it cannot translate one of the network's primitives
            (which is named), an equation cannot be written for any batch size, or onnxruntime
            cannot run the result or gives other numbers.
        OSError: The file cannot be written.
    """
    try:
        import jax2onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(
            f"ONNX needs packages that are not installed ({error}); pip install 'jaxprune[onnx]'"
        ) from error
    given = read(inputs)
    names = [spelled(key) for key, _ in leaves_by_key(inputs)] if len(given.leaves) > 1 else ["x"]
    silent = quiet(lambda *inputs: small(small.params, *inputs))
    network = for_any_batch(silent, given, _REWRITES)
    try:
        model = jax2onnx.to_onnx(
            lambda *leaves: tuple(network(*leaves)),
            inputs=[
                jax.ShapeDtypeStruct(("batch", *leaf.shape[1:]) if each else leaf.shape, leaf.dtype)
                for leaf, each in zip(given.leaves, given.batched, strict=True)
            ],
            input_names=names,
        )
    except UserError:
        raise
    except Exception as error:  # whatever the translations of hundreds of primitives bring up
        raise UserError(f"the network cannot be written as ONNX: {first_line(error)}") from error
    content = model.SerializeToString()
    wanted = jax.jit(silent)
    for values in (*given.trials(given.batch), *given.trials(given.batch + 1)):
        arrays = dict(zip(names, map(np.asarray, jax.tree.leaves(values)), strict=True))
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            taken = {each.name for each in session.get_inputs()}
            outputs = session.run(None, {name: arrays[name] for name in names if name in taken})
        except Exception as error:
            raise UserError(
                f"onnxruntime cannot run the translated network: {first_line(error)}"
            ) from error
        found = difference(outputs, jax.tree.leaves(wanted(*values)))
        if found:
            raise UserError(
                f"the translated network does not compute what the network computes: {found}"
            )
    path = Path(path).expanduser().resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _pooling(pool: Callable[..., Any], identity: float, mean: bool = False) -> Callable[..., Any]:
    """The translation of windows over the positions of `[B, ...]`.

    jax2onnx translates a reduction over windows with batch and channels as two more positions,
    which onnxruntime cannot run from two-dimensional images on; it translates Flax's functions to
    the pooling that is meant.
    """

    def rewrite(
        x: Any,
        *,
        window_dimensions: Sequence[int],
        window_strides: Sequence[int],
        padding: Sequence[tuple[int, int]],
        base_dilation: Sequence[int],
        window_dilation: Sequence[int],
        **_: Any,
    ) -> Any:
        per_axis = list(zip(window_dimensions, window_strides, padding, strict=True))
        positions = [d for d, each in enumerate(per_axis) if each != (1, 1, (0, 0))]
        others = [d for d in range(x.ndim) if d not in positions]
        dilated = {*base_dilation, *window_dilation} != {1}
        if dilated or len(others) != 2 or others[0] != 0:
            return None
        order = (0, *positions, others[1])
        window = tuple(window_dimensions[d] for d in positions)
        x = jnp.transpose(x, order)
        if any(padding[d] != (0, 0) for d in positions):
            x = jnp.pad(x, [padding[d] for d in order], constant_values=identity)
        strides = tuple(window_strides[d] for d in positions)
        x = pool(x, window_shape=window, strides=strides, padding="VALID")
        x = x * prod(window) if mean else x
        return jnp.transpose(x, [order.index(d) for d in range(x.ndim)])

    return rewrite


_REWRITES = {
    # The functions are looked up at each call: jax2onnx replaces them while it traces.
    "reduce_window_max": _pooling(lambda x, **window: linen.max_pool(x, **window), -jnp.inf),
    "reduce_window_sum": _pooling(lambda x, **window: linen.avg_pool(x, **window), 0.0, mean=True),
}
