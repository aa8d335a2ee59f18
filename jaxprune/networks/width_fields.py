"""Which fields of a Flax layer hold its widths, for Linen and NNX alike.

A layer's width is a field of its module, such as `features`, so the parameters of a compact network
do not fit into the layers they came from until these fields are set from the parameters' shapes.
"""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
from flax import nnx

Shapes = Mapping[str, tuple[int, ...]]
"""{name: shape} of the parameters that a layer holds itself."""

Suspects = dict[str, str]
"""{path of a layer: why it may compute something else at its new width}."""

_ATTENTION = "attention, which divides by the root of its head dimension: keep that group whole"


def fit(
    layer: Any,
    path: tuple[Any, ...],
    shapes: Shapes,
    suspects: Suspects,
    channels: int | None = None,
) -> dict[str, Any]:
    """Sets the width fields of a layer from its parameters.

    Args:
        layer: A Linen or NNX module that is used nowhere else.
        path: Where it stands in the network.
        shapes: The shapes of its own parameters.
        suspects: Gets an entry if the layer is of an unknown kind, or its result has another scale.
        channels: Size of the last axis of its input, if known.

    Returns:
        {field: value}, what was set.
    """
    fields = _fields(layer, shapes, channels)
    if fields is None:
        suspects["/".join(map(str, path))] = type(layer).__name__
        return {}
    fields = {name: value for name, value in fields.items() if hasattr(layer, name)}
    if isinstance(layer, nnx.MultiHeadAttention) and layer.head_dim != fields["head_dim"]:
        suspects["/".join(map(str, path))] = _ATTENTION
    in_attention = isinstance(getattr(layer, "parent", None), nn.MultiHeadDotProductAttention)
    if in_attention and layer.name == "query" and layer.features[-1] != fields["features"][-1]:
        suspects["/".join(map(str, path[:-1]))] = _ATTENTION
    for name, value in fields.items():
        object.__setattr__(layer, name, value)  # Linen's modules are frozen
    return fields


def _fields(layer: Any, shapes: Shapes, channels: int | None) -> dict[str, Any] | None:
    """The width fields of a kind of layer, under Linen's and NNX's names; None: unknown kind."""
    kernel = shapes.get("kernel", ())
    match layer:
        case nn.Dense() | nn.ConvLocal() | nn.DenseGeneral(features=int()):
            return {"features": kernel[-1]}
        case nn.DenseGeneral():
            outputs: Any = layer.features
            return {"features": kernel[-len(outputs) :]}
        case nnx.Linear():
            return {"in_features": kernel[0], "out_features": kernel[1]}
        case nnx.LinearGeneral():
            first = len(layer.batch_axis)
            middle = first + len(layer.in_features)
            return {"in_features": kernel[first:middle], "out_features": kernel[middle:]}
        case nn.Conv() | nnx.Conv():
            per_group, features = kernel[-2:]
            groups = layer.feature_group_count
            if groups > 1 and channels:
                groups = channels // per_group
            elif groups > 1:  # pruning removes whole groups
                dense = layer.features if isinstance(layer, nn.Conv) else layer.out_features
                groups = features // (dense // groups)
            sizes = {"features": features, "out_features": features, "kernel_shape": kernel}
            return sizes | {"in_features": per_group * groups, "feature_group_count": groups}
        case nn.ConvTranspose() | nnx.ConvTranspose():
            inputs, features = kernel[-2:][:: -1 if layer.transpose_kernel else 1]
            sizes = {"features": features, "out_features": features, "kernel_shape": kernel}
            return sizes | {"in_features": inputs}
        case nn.Einsum() | nnx.Einsum():
            return {"shape": kernel, "kernel_shape": kernel, "bias_shape": shapes.get("bias")}
        case nn.Embed() | nnx.Embed():
            rows, features = shapes["embedding"]
            return {"num_embeddings": rows, "features": features}
        case nnx.MultiHeadAttention():
            width, heads, size = layer.query.kernel.shape
            return {
                "in_features": width,
                "in_kv_features": layer.key.kernel.shape[0],
                "num_heads": heads,
                "num_kv_heads": layer.key.kernel.shape[-2],
                "head_dim": size,
                "qkv_features": heads * size,
                "out_features": layer.out.kernel.shape[-1],
            }
        case nnx.LSTMCell():
            return _of_cell(layer.ii, layer.hi)
        case nnx.OptimizedLSTMCell() | nnx.GRUCell() | nnx.SimpleCell():
            return _of_cell(layer.dense_i, layer.dense_h)
        case nnx.BatchNorm() | nnx.LayerNorm() | nnx.RMSNorm() | nnx.InstanceNorm():
            widths = {shape[-1] for shape in shapes.values()}
            return {"num_features": max(widths)} if widths else {}
        case nn.BatchNorm() | nn.LayerNorm() | nn.RMSNorm() | nn.InstanceNorm():
            return {}  # these take their width from their input
    return None if shapes else {}


def _of_cell(of_input: nnx.Linear, of_state: nnx.Linear) -> dict[str, int]:
    """The widths of a recurrent cell, from the layers that read its input and its state."""
    inputs, hidden = of_input.kernel.shape[0], of_state.kernel.shape[0]
    return {"in_features": inputs, "hidden_features": hidden}
