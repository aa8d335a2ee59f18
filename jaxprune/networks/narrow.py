"""Flax modules at the widths of a compact network, for training and serving them in Flax itself.

The fields that hold the widths are set from the parameters (see `width_fields`). What else a module
computes from its old widths cannot be known, so the result is compared with the compact network.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxprune.dependency import CompactNetwork
from jaxprune.dependency.concrete import copies
from jaxprune.errors import UserError, first_line
from jaxprune.networks.adapters import nnx_with
from jaxprune.networks.agreement import difference
from jaxprune.networks.width_fields import Suspects, fit

Path = tuple[str, ...]

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

    The result is an instance of a subclass of the module's class, with the same fields and methods.
    While its `apply`, `init` or `init_with_output` runs, each `Dense`, `DenseGeneral` (and so
    attention), `Conv`, `ConvLocal`, `ConvTranspose`, `Einsum` and `Embed` has the width of its
    parameters. As a part of another module, or after `bind`, it has its old widths. Attention
    divides by the root of its head dimension, so the group of query and key over that axis must be
    kept whole (see `Limits`); heads and the channels of values may go.

    Args:
        module: The unbound module that the compact network was made from.
        small: The compact network; its params are the module's variables, with an entry "params".
        x: Inputs `[B, ...]`, or a tuple of several, on which the result is compared with `small`.
        **kwargs: Arguments of the call that is compared, such as `train=False`: the mode in which
            `small` computes.

    Returns:
        The module. `apply(small.params, ...)` works as it did with the dense variables, and `init`
        makes new variables of the smaller shapes.

    Raises:
        UserError: The params are not the module's variables, or at the new widths the module
            computes something else than `small`, because the width of a layer also shows elsewhere
            in its code. That layer is named.
    """
    if not (isinstance(small.params, Mapping) and "params" in small.params):
        raise UserError(
            "linen_module needs a compact network of the module's variables, a mapping with an "
            f"entry 'params', not of a {type(small.params).__name__}; make it with from_linen"
        )
    inputs = x if isinstance(x, tuple) else (x,)
    with _layers_named(lambda layer: "/".join(layer.path) if layer.scope else ""):
        narrow, _, suspects = fitted(module, small.params)
        outputs = jax.jit(lambda v: narrow.apply(v, *inputs, **kwargs))(small.params)
    _compare(outputs, jax.jit(small)(small.params, *inputs), suspects)
    return narrow


def nnx_module(model: nnx.Module, small: CompactNetwork, x: Any, **kwargs: Any) -> Any:
    """A copy of a Flax NNX model that holds a compact network's parameters at their widths.

    ::

        apply, variables = jaxprune.from_nnx(model)
        small = jaxprune.prune(apply, variables, x)
        narrow = nnx_module(model, small, x)
        narrow.train()
        optimizer = nnx.Optimizer(narrow, optax.sgd(0.1), wrt=nnx.Param)

    `Linear`, `LinearGeneral`, `Conv`, `ConvTranspose`, `Einsum`, `Embed`, `MultiHeadAttention`, the
    recurrent cells and the normalisations get the widths of their parameters. NNX's attention has
    one head dimension for queries, keys and values, so these groups must be kept whole (see
    `Limits`); heads may go.

    Args:
        model: The model that the compact network was made from. It is not changed.
        small: The compact network. Its params are the variables of `from_nnx`, or an `nnx.State`
            or several, as `nnx.split` returns them.
        x: Inputs `[B, ...]`, or a tuple of several, on which the result is compared with `small`.
        **kwargs: Arguments of the call that is compared.

    Returns:
        The copy, in the mode (training or evaluation) of `model`. It shares no memory with `small`.

    Raises:
        UserError: As `linen_module`.
    """
    narrow = _filled(model, copies(small.params))
    suspects: Suspects = {}
    for path, layer in nnx.iter_modules(narrow):
        own = {
            name: value.shape
            for name, value in vars(layer).items()
            if isinstance(value, nnx.Param | nnx.BatchStat)
        }
        fit(layer, path, own, suspects)
    inputs = x if isinstance(x, tuple) else (x,)
    copy = nnx.clone(narrow)
    copy.eval()
    names = {id(layer): "/".join(map(str, path)) for path, layer in nnx.iter_modules(copy)}
    with _layers_named(lambda layer: names.get(id(layer), "")):
        outputs = copy(*inputs, **kwargs)
    _compare(outputs, jax.jit(small)(small.params, *inputs), suspects)
    return narrow


def fitted(
    module: nn.Module, variables: Mapping[str, Any]
) -> tuple[Any, dict[Path, dict[str, Any]], Suspects]:
    """A Linen module whose layers take the widths of the variables when it is called.

    Returns:
        The module, an instance of a subclass; {path of a layer: {field: value}}, the fields set in
        its calls so far; and the layers in these that may not have followed.
    """
    base = type(module)
    shapes: dict[Path, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for (*path, name), leaf in flatten_dict(nn.meta.unbox(variables["params"])).items():
        shapes[tuple(path)][name] = np.shape(leaf)
    fields: dict[Path, dict[str, Any]] = {}
    suspects: Suspects = {}

    def interceptor(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module  # Flax makes its layers anew for each call: it is used nowhere else
        if own := shapes.get(layer.path):
            called = args and context.method_name == "__call__"
            shape = getattr(args[0], "shape", ()) if called else ()
            channels = shape[-1] if shape else None
            fields[layer.path] = fit(layer, layer.path, own, suspects, channels)
        return method(*args, **kwargs)

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
    return kind(**linen_attributes(module)), fields, suspects


def linen_attributes(module: nn.Module) -> dict[str, Any]:
    """The arguments that an unbound module was made with."""
    return {
        field.name: getattr(module, field.name)
        for field in dataclasses.fields(module)  # type: ignore[arg-type]
        if field.init and field.name not in ("parent", "name")
    }


def _filled(model: nnx.Module, params: Any) -> Any:
    """A copy of an NNX model with other variables."""
    narrow = nnx.clone(model)
    try:
        if not isinstance(params, nnx.State) and set(params) == {"params", "state"}:
            return nnx_with(narrow, params)
        nnx.update(narrow, *(params if isinstance(params, tuple) else (params,)))
    except Exception as error:
        raise UserError(
            "the compact network's params are not those of this model "
            f"({type(error).__name__}: {first_line(error)}); make it with from_nnx(model)"
        ) from error
    return narrow


@contextmanager
def _layers_named(name: Callable[[Any], str]) -> Iterator[None]:
    """Turns an exception into a UserError that names the innermost layer in whose code it arose."""
    try:
        yield
    except Exception as error:
        where, traceback = "the module", error.__traceback__
        while traceback is not None:
            layer = traceback.tb_frame.f_locals.get("self")
            if isinstance(layer, nn.Module | nnx.Module) and name(layer):
                where = f"layer '{name(layer)}'"
            traceback = traceback.tb_next
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{where} cannot run at the new widths ({reason}); {_REMEDY}") from error


def _compare(outputs: Any, expected: Any, suspects: Suspects) -> None:
    """Raises UserError unless a module computes what the compact network computes."""
    found = difference(outputs, expected)
    if found:
        see = ", ".join(f"'{path}' ({kind})" for path, kind in suspects.items())
        raise UserError(
            "at the new widths the module computes something else than the compact network "
            f"({found}): {f'see {see}; ' if see else ''}{_REMEDY}"
        )
