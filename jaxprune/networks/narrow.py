"""Flax modules at the widths of a compact network, for training and serving them in Flax itself.

A layer's width is an attribute of its module (`features`, `out_features`), so that the parameters
of a compact network do not fit into the module that they came from. The functions below bring the
attributes into line with the parameters. What else a module computes from its old widths they
cannot know; hence they run it on an example and compare it with the compact network.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from jaxprune.dependency import CompactNetwork
from jaxprune.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]
"""{name: shape} of the parameters that a layer has itself."""

_LINEN_NORMS = (nn.BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.InstanceNorm)  # no attribute for width
_ATTENTION = "attention, which divides by the root of its head dimension: keep that group whole"
_NNX_NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.RMSNorm, nnx.InstanceNorm)


_REMEDY = (
    "write it so that it takes its widths from its inputs, give the mode in which the compact "
    "network computes (such as train=False), or go on using the compact network itself"
)


def linen_module(module: nn.Module, small: CompactNetwork, x: Any, **kwargs: Any) -> nn.Module:
    """A Flax Linen module whose layers have the widths of a compact network.

    ::

        apply = jaxprune.from_linen(network, train=False)
        small = jaxprune.prune(apply, variables, x)
        narrow = linen_module(network, small, x, train=False)
        logits, updates = narrow.apply(small.params, x, train=True, mutable=["batch_stats"])

    The result is of a subclass of the module's class, with the same attributes and methods. Its
    `apply`, `init` and `init_with_output` set the width of each layer to that of its parameters
    while they run: `Dense`, `DenseGeneral` (and so attention), `Conv`, `ConvLocal`,
    `ConvTranspose`, `Einsum` and `Embed`. It is meant to be used through these methods; as a part
    of another module, or after `bind`, it has its old widths. Attention divides by the root of its
    head dimension, so that the group of query and key over that axis must be kept whole (by
    `Limits`); heads and the channels of values may go.

    Args:
        module: The unbound module that the compact network was made from.
        small: The compact network; its params are the module's variables, with an entry "params".
        x: Inputs `[B, ...]`, or a tuple of several, on which the result is compared with `small`.
        **kwargs: Passed to the call that is compared, such as `train=False`: the mode in which
            `small` computes.

    Returns:
        The module. `apply(small.params, ...)` works as it did with the dense variables, and `init`
        makes new variables of the smaller shapes.

    Raises:
        UserError: The params are not the module's variables; or the module computes something else
            than `small` at the new widths, because a layer depends on the old ones otherwise than
            by the attributes above. That layer is named.
    """
    if not (isinstance(small.params, Mapping) and "params" in small.params):
        raise UserError(
            "linen_module needs a compact network of the module's variables, a mapping with an "
            f"entry 'params', not of a {type(small.params).__name__}; make it with from_linen"
        )
    shapes = _own_shapes(nn.meta.unbox(small.params["params"]))
    unadapted: dict[str, str] = {}

    def at_new_widths(next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        own = shapes.get(layer.path)
        if own:
            inputs = args if context.method_name == "__call__" else ()
            widths = _linen_widths(layer, own, inputs)
            if not widths and not isinstance(layer, _LINEN_NORMS):
                unadapted[_name(layer.path)] = type(layer).__name__
            if _changes_scale(layer, widths):
                unadapted[_name(layer.path[:-1])] = _ATTENTION
            for name, value in widths.items():
                # Flax makes its layers anew for each `apply`: this one is nobody else's.
                object.__setattr__(layer, name, value)
        return next_method(*args, **kwargs)

    narrow = _intercepted(module, at_new_widths)
    inputs = x if isinstance(x, tuple) else (x,)
    try:
        outputs = jax.jit(lambda v: narrow.apply(v, *inputs, **kwargs))(small.params)
    except Exception as error:
        where = _layer_of(error, lambda layer: _name(layer.path) if layer.scope else "")
        raise _stuck(where, error) from error
    _compare(outputs, jax.jit(small)(small.params, *inputs), unadapted)
    return narrow


def nnx_module(model: nnx.Module, small: CompactNetwork, x: Any, **kwargs: Any) -> Any:
    """A copy of a Flax NNX model that holds a compact network's parameters at their widths.

    ::

        apply, variables = jaxprune.from_nnx(model)
        small = jaxprune.prune(apply, variables, x)
        narrow = nnx_module(model, small, x)
        narrow.train()
        optimizer = nnx.Optimizer(narrow, optax.sgd(0.1), wrt=nnx.Param)

    The attributes `in_features`, `out_features`, `num_features`, `kernel_shape` and the like of
    `Linear`, `LinearGeneral`, `Conv`, `ConvTranspose`, `Einsum`, `Embed`, `MultiHeadAttention` and
    the normalisations are set to what the parameters have. NNX's attention has one head dimension
    for queries, keys and values, so that these groups must be kept whole (by `Limits`); heads may
    go.

    Args:
        model: The model that the compact network was made from. It is left as it is.
        small: The compact network. Its params are the variables of `from_nnx`, or an `nnx.State`
            or several, as `nnx.split` returns them.
        x: Inputs `[B, ...]`, or a tuple of several, on which the result is compared with `small`.
        **kwargs: Passed to the call that is compared.

    Returns:
        The copy, in the mode (training or evaluation) of `model`.

    Raises:
        UserError: The params are not the model's; or the model computes something else than `small`
            at the new widths, because a layer depends on the old ones otherwise than by the
            attributes above. That layer is named.
    """
    narrow = _filled(model, small.params)
    unadapted: dict[str, str] = {}
    dense = dict(nnx.iter_modules(model))
    for path, layer in nnx.iter_modules(narrow):
        widths = _nnx_widths(layer)
        if isinstance(layer, nnx.MultiHeadAttention) and layer.head_dim != widths["head_dim"]:
            unadapted[_name(path)] = _ATTENTION
        changed = _nnx_shapes(layer) != _nnx_shapes(dense[path])
        if changed and (not widths or isinstance(layer, nnx.GroupNorm)):
            unadapted[_name(path)] = type(layer).__name__
        for name, value in widths.items():
            setattr(layer, name, value)
    inputs = x if isinstance(x, tuple) else (x,)
    copy = nnx.clone(narrow)
    copy.eval()
    names = {id(layer): _name(path) for path, layer in nnx.iter_modules(copy)}
    try:
        outputs = copy(*inputs, **kwargs)
    except Exception as error:
        where = _layer_of(error, lambda layer: names.get(id(layer), ""))
        raise _stuck(where, error) from error
    _compare(outputs, jax.jit(small)(small.params, *inputs), unadapted)
    return narrow


def _changes_scale(layer: Any, widths: Mapping[str, Any]) -> bool:
    """Does a Linen layer make queries of another head dimension than before?"""
    attention = isinstance(layer.parent, nn.MultiHeadDotProductAttention)
    return attention and layer.name == "query" and layer.features[-1] != widths["features"][-1]


def _linen_widths(layer: Any, own: Shapes, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """The attributes of a Linen layer that follow from the shapes of its parameters."""
    kernel = own.get("kernel", ())
    match layer:
        case nn.Dense():
            return {"features": kernel[-1]}
        case nn.DenseGeneral(features=int()):
            return {"features": kernel[-1]}
        case nn.DenseGeneral():
            several: Any = layer.features
            return {"features": kernel[-len(several) :]}
        case nn.ConvTranspose():
            return {"features": kernel[-2 if layer.transpose_kernel else -1]}
        case nn.ConvLocal():
            return {"features": kernel[-1]}
        case nn.Conv():
            groups = layer.feature_group_count
            if groups > 1 and inputs:
                groups = inputs[0].shape[-1] // kernel[-2]
            return {"features": kernel[-1], "feature_group_count": groups}
        case nn.Einsum():
            return {"shape": kernel}
        case nn.Embed():
            rows, features = own["embedding"]
            return {"num_embeddings": rows, "features": features}
    return {}


def _nnx_widths(layer: Any) -> dict[str, Any]:
    """The attributes of an NNX layer that follow from the shapes of its parameters."""
    match layer:
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
        case nnx.Linear():
            inputs, outputs = layer.kernel.shape
            return {"in_features": inputs, "out_features": outputs}
        case nnx.LinearGeneral():
            shape = layer.kernel.shape[len(layer.batch_axis) :]
            rank = len(layer.in_features)
            return {"in_features": shape[:rank], "out_features": shape[rank:]}
        case nnx.Conv():
            shape = layer.kernel.shape
            inputs, outputs = shape[-2:]
            # Removed channels of a grouped convolution take their groups with them.
            groups = layer.feature_group_count
            if groups > 1:
                groups = outputs // (layer.out_features // groups)
            return {
                "in_features": inputs * groups,
                "out_features": outputs,
                "feature_group_count": groups,
                "kernel_shape": shape,
            }
        case nnx.ConvTranspose():
            shape = layer.kernel.shape
            inputs, outputs = shape[-2:]
            if layer.transpose_kernel:
                inputs, outputs = outputs, inputs
            return {"in_features": inputs, "out_features": outputs, "kernel_shape": shape}
        case nnx.Einsum():
            bias = layer.bias.shape if layer.bias is not None else None
            return {"kernel_shape": layer.kernel.shape, "bias_shape": bias}
        case nnx.Embed():
            rows, features = layer.embedding.shape
            return {"num_embeddings": rows, "features": features}
        case _ if isinstance(layer, _NNX_NORMS):
            sizes = [shape[-1] for shape in _nnx_shapes(layer).values()]
            return {"num_features": sizes[0]} if sizes else {}
    return {}


def _nnx_shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    return {
        name: value.shape
        for name, value in vars(layer).items()
        if isinstance(value, nnx.Param | nnx.BatchStat)
    }


def _own_shapes(params: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """{path of a layer: shapes of the parameters that it has itself}."""

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        yield path, {name: np.shape(v) for name, v in node.items() if not isinstance(v, Mapping)}
        for name, value in node.items():
            if isinstance(value, Mapping):
                yield from walk(value, (*path, name))

    return dict(walk(params, ()))


def _intercepted(module: nn.Module, interceptor: Any) -> Any:
    """The module with an interceptor of its layers' calls around all that is computed with it."""
    base = type(module)

    def around(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            with nn.intercept_methods(interceptor):
                return getattr(base, name)(self, *args, **kwargs)

        method.__name__ = name
        method.__doc__ = getattr(base, name).__doc__
        return nn.nowrap(method)

    methods = {name: around(name) for name in ("apply", "init", "init_with_output")}
    about = {"__module__": base.__module__, "__doc__": base.__doc__}
    kind: Any = type(base.__name__, (base,), methods | about)
    attributes = {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)  # type: ignore[arg-type]
        if field.init and field.name != "parent"
    }
    return kind(**attributes)


def _filled(model: nnx.Module, params: Any) -> Any:
    """A copy of an NNX model with other variables."""
    narrow = nnx.clone(model)
    try:
        if not isinstance(params, nnx.State) and set(params) == {"params", "state"}:
            parts: Any = nnx.split(narrow, nnx.Param, nnx.RngState, ...)
            graph, weights, keys, state = parts
            nnx.replace_by_pure_dict(weights, params["params"])
            nnx.replace_by_pure_dict(state, params["state"])
            return nnx.merge(graph, weights, keys, state)
        nnx.update(narrow, *(params if isinstance(params, tuple) else (params,)))
    except Exception as error:
        raise UserError(
            "the compact network's params are not those of this model "
            f"({type(error).__name__}: {_first_line(error)}); make it with from_nnx(model)"
        ) from error
    return narrow


def _compare(outputs: Any, expected: Any, unadapted: Mapping[str, str]) -> None:
    """Raises UserError unless a module computes what the compact network computes."""
    computed: Any = jax.tree.structure(outputs)
    if computed == jax.tree.structure(expected):
        pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(expected), strict=True)
        if all(_close(output, wanted) for output, wanted in pairs):
            return
    suspects = ", ".join(f"'{path}' ({kind})" for path, kind in unadapted.items())
    raise UserError(
        "at the new widths the module computes something else than the compact network: "
        + (f"see {suspects}; " if suspects else "")
        + _REMEDY
    )


def _close(output: Any, wanted: Any) -> bool:
    scale = max(float(jnp.abs(wanted).max(initial=0)), 1.0)
    return output.shape == wanted.shape and bool(jnp.allclose(output, wanted, 1e-3, 1e-4 * scale))


def _stuck(where: str, error: Exception) -> UserError:
    layer = f"layer '{where}'" if where else "the module"
    return UserError(
        f"{layer} cannot run at the new widths ({type(error).__name__}: {_first_line(error)}); "
        + _REMEDY
    )


def _layer_of(error: BaseException, name: Any) -> str:
    """The name of the innermost module in whose method an exception was raised."""
    found = ""
    traceback = error.__traceback__
    while traceback is not None:
        layer = traceback.tb_frame.f_locals.get("self")
        if isinstance(layer, nn.Module | nnx.Module):
            found = name(layer) or found
        traceback = traceback.tb_next
    return found


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def _first_line(error: Exception) -> str:
    return f"{(str(error).strip().splitlines() or ['no reason given'])[0]:.300}"
