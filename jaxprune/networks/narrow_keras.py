"""Keras models at the widths of a compact network, for training and serving them in Keras itself.

A Keras layer's width is part of its configuration. A Functional or Sequential model is built anew
from configurations whose widths follow from the parameters' shapes, and then gets the parameters.
"""

import re
from typing import Any

import jax
import numpy as np

from jaxprune.dependency import CompactNetwork
from jaxprune.errors import UserError
from jaxprune.networks.adapters import keras_library, keras_variables
from jaxprune.networks.agreement import difference

Shapes = dict[str, tuple[int, ...]]
"""{name of a layer's variable: shape}."""

_REMEDY = "keep it whole (ignore= or limits=), or go on using the compact network itself"


def keras_model(model: Any, small: CompactNetwork, x: Any) -> Any:
    """A Keras model whose layers have the widths of a compact network, and its parameters.

    ::

        apply, variables = jaxprune.from_keras(model)
        small = jaxprune.prune(apply, variables, x)
        narrow = jaxprune.keras_model(model, small, x)
        narrow.compile(optimizer="adam", loss="mse")

    `Dense`, convolutions of all kinds, `Embedding`, attention, recurrent layers and normalisations
    get the widths of their parameters. Keras's attention has one head dimension for queries, keys
    and values and divides by its root, so these must be kept whole; heads may go. Other layers are
    taken as they are.

    Args:
        model: The Functional or Sequential model that the compact network was made from, with other
            such models inside it if need be. It is not changed.
        small: The compact network. Its params are the variables of `from_keras`.
        x: Inputs `[B, ...]`, or a tuple of several, on which the result is compared with `small`.

    Returns:
        The model. It is compiled if `model` is, with a fresh optimizer.

    Raises:
        UserError: The model is of another kind, a layer cannot take the new widths, or the result
            computes something else than `small`.
    """
    keras = keras_library()
    if not isinstance(model, keras.Sequential | keras.src.models.Functional):
        raise UserError(
            f"keras_model builds Functional and Sequential models anew, and {model.name!r} is a "
            f"{type(model).__name__}, whose layers only its own code knows: go on using the "
            "compact network itself"
        )
    values = _values(model, small)
    new = {id(variable): np.shape(values[name]) for name, variable in keras_variables(model)}

    def narrowed(layer: Any) -> Any:
        prefix = f"{layer.path}/"
        variables = getattr(layer, "variables", ())
        shapes = {of.path.removeprefix(prefix): new[id(of)] for of in variables if id(of) in new}
        narrow = type(layer).from_config(layer.get_config() | _widths(keras.layers, layer, shapes))
        if getattr(layer, "groups", 1) > 1 and "kernel" in shapes:
            _group_when_built(narrow, shapes["kernel"][-2])
        return narrow

    inputs = x if isinstance(x, tuple) else (x,)
    try:
        narrow = keras.models.clone_model(model, clone_function=narrowed, recursive=True)
        _fill(narrow, model, values)
        outputs = narrow(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
    except UserError:
        raise
    except Exception as error:  # whatever a layer makes of inputs of another width
        raise UserError(
            f"the model {model.name!r} cannot run at the new widths ({_reason(error)}); some layer "
            f"fixes a width, as Reshape does: {_REMEDY}"
        ) from error
    found = difference(outputs, jax.jit(small)(small.params, *inputs))
    if found:
        raise UserError(
            f"at the new widths the model {model.name!r} computes something else than the compact "
            f"network ({found}): a layer computes with its width, as attention does with its head "
            f"dimension; {_REMEDY}"
        )
    return narrow


def _reason(error: Exception) -> str:
    """An exception in one line; the first that Keras writes often says only in which layer."""
    lines = re.sub(r"\x1b\[\d*m", "", str(error)).split("\n")
    told = " ".join([line.strip() for line in lines if line.strip()][:2])
    return f"{type(error).__name__}: {told:.300}"


def _values(model: Any, small: CompactNetwork) -> dict[str, Any]:
    """{name: value} of all variables of a model, as the compact network has them."""
    params = small.params
    names = {name for name, _ in keras_variables(model)}
    if not (isinstance(params, dict) and set(params) == {"params", "state"}):
        raise UserError("the compact network's params are not those of from_keras: make it with it")
    values = {**params["params"], **params["state"]}
    if set(values) != names:
        raise UserError(
            f"the compact network's params are not those of the model {model.name!r}: make it with "
            "from_keras(model)"
        )
    return values


def _widths(layers: Any, layer: Any, shapes: Shapes) -> dict[str, Any]:
    """The entries of a layer's configuration that hold its widths; {} if it has none."""
    kernel = shapes.get("kernel", ())
    match layer:
        case _ if not shapes:
            return {}
        case layers.Dense():
            return {"units": kernel[-1]}
        case layers.EinsumDense():
            return {"output_shape": _einsum_output(layer, kernel)}
        case layers.Conv1D() | layers.Conv2D() | layers.Conv3D():
            return {"filters": kernel[-1], "groups": 1}  # groups follow from the input
        case layers.Conv1DTranspose() | layers.Conv2DTranspose() | layers.Conv3DTranspose():
            return {"filters": kernel[-2]}
        case layers.DepthwiseConv1D() | layers.DepthwiseConv2D():
            return {"depth_multiplier": kernel[-1]}
        case layers.SeparableConv1D() | layers.SeparableConv2D():
            depthwise, pointwise = shapes["depthwise_kernel"], shapes["pointwise_kernel"]
            return {"depth_multiplier": depthwise[-1], "filters": pointwise[-1]}
        case layers.Embedding():
            rows, width = shapes["embeddings"]
            return {"input_dim": rows, "output_dim": width}
        case layers.MultiHeadAttention():
            width, heads, size = shapes["query/kernel"]
            output = shapes["attention_output/kernel"][-1]
            fields = {"num_heads": heads, "key_dim": size, "value_dim": shapes["value/kernel"][-1]}
            return fields if output == width else {**fields, "output_shape": output}
        case layers.GroupQueryAttention():
            _, heads, size = shapes["query/kernel"]
            fields = {"num_query_heads": heads, "head_dim": size}
            return {**fields, "num_key_value_heads": shapes["key/kernel"][-2]}
        case layers.LSTM() | layers.GRU() | layers.SimpleRNN():
            units = [of[0] for name, of in shapes.items() if name.endswith("recurrent_kernel")]
            return {"units": units[0]}
    return {}


def _group_when_built(layer: Any, per_group: int) -> None:
    """Lets a grouped convolution find out how many groups are left: its input tells."""
    build = layer.build
    axis = -1 if layer.data_format == "channels_last" else 1

    def grouped(input_shape: Any) -> None:
        layer.groups = input_shape[axis] // per_group
        layer.build = build
        build(input_shape)

    layer.build = grouped


def _einsum_output(layer: Any, kernel: tuple[int, ...]) -> list[int | None]:
    """The output shape of an `EinsumDense`, without the batch axis, as its configuration has it."""
    operands, output = layer.equation.split("->")
    sizes = dict(zip(operands.split(",")[1], kernel, strict=True))
    old = layer.get_config()["output_shape"]
    old = old if isinstance(old, list | tuple) else [old]
    letters = output[-len(old) :]
    return [size and sizes.get(letter, size) for letter, size in zip(letters, old, strict=True)]


def _fill(narrow: Any, model: Any, values: dict[str, Any]) -> None:
    """Gives the parameters to the model that was built for them.

    Raises:
        UserError: Keras made a variable of another shape.
    """
    made = keras_variables(narrow)
    for (name, _), (_, variable) in zip(keras_variables(model), made, strict=True):
        if tuple(variable.shape) != np.shape(values[name]):
            raise UserError(
                f"the layer of {name!r} cannot take the new widths: Keras makes that variable "
                f"{list(variable.shape)}, the compact network has {list(np.shape(values[name]))}; "
                f"{_REMEDY}"
            )
        variable.assign(values[name])
