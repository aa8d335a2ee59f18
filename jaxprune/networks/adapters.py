"""Networks of other libraries as functions `apply(variables, *inputs)`.

`jaxprune.trace` takes any function of a pytree of arrays. What follows brings each library's own
calling convention into that form, in inference mode, and imports the library only when it is used.

The widths of a module are attributes of it, so a compact network's parameters do not fit into the
module that they came from. A compact network is a function, and brings its own:
`small(small.params, x)`. `jaxprune.networks.narrow` brings Flax's modules to the new widths.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import jax

Apply = Callable[..., Any]
"""`apply(variables, *inputs)`, which returns predictions."""


def from_linen(module: Any, *, rngs: Any = None, method: Any = None, **kwargs: Any) -> Apply:
    """A Flax Linen module as a function of its variables.

    Example:
      ```python
      module = ResNet()  # called as module(x, train=...)
      variables = module.init(jax.random.key(0), x, train=False)
      apply = jaxprune.from_linen(module, train=False)
      structure = jaxprune.trace(apply, variables, x)
      small = jaxprune.compact(apply, structure, variables, masks)
      logits = small(small.params, x)
      ```

    Args:
      module: an unbound module.
      rngs: random keys that the module needs even in inference, if any.
      method: what to call instead of `__call__`: a method or its name.
      **kwargs: passed to every call, such as `train=False` or `deterministic=True`.

    Returns:
      `apply(variables, *inputs)`, with variables as `module.init` returns them. It changes none of
      them: a module that would, such as a BatchNorm left in training mode, raises.
    """

    def apply(variables: Any, *inputs: Any) -> Any:
        return module.apply(variables, *inputs, rngs=rngs, method=method, **kwargs)

    return apply


def from_nnx(model: Any, **kwargs: Any) -> tuple[Apply, dict[str, Any]]:
    """A Flax NNX model as a function of its variables.

    Example:
      ```python
      model = CNN(rngs=nnx.Rngs(0))  # called as model(x)
      apply, variables = jaxprune.from_nnx(model)
      structure = jaxprune.trace(apply, variables, x)
      small = jaxprune.compact(apply, structure, variables, masks)
      logits = small(small.params, x)
      ```

    Args:
      model: the model. It is copied, and the copy set to evaluation mode.
      **kwargs: passed to every call.

    Returns:
      `apply(variables, *inputs)`, and the variables as plain nested dicts of arrays: "params" holds
      what is an `nnx.Param`, "state" the rest, such as BatchNorm's statistics. Random keys are no
      part of them.
    """
    nnx: Any = _library("flax.nnx", "flax")
    copy = nnx.clone(model)
    copy.eval()
    graph, params, keys, state = nnx.split(copy, nnx.Param, nnx.RngState, ...)

    def filled(template: Any, values: Any) -> Any:
        result = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(result, values)
        return result

    def apply(variables: Any, *inputs: Any) -> Any:
        merged = nnx.merge(
            graph, filled(params, variables["params"]), keys, filled(state, variables["state"])
        )
        return merged(*inputs, **kwargs)

    return apply, {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}


def from_equinox(model: Any, state: Any = None, **kwargs: Any) -> tuple[Apply, Any]:
    """An Equinox model as a function of its arrays.

    Example:
      ```python
      model = CNN(jax.random.key(0))  # called as model(x) for one example
      apply, variables = jaxprune.from_equinox(model)
      structure = jaxprune.trace(apply, variables, x)  # x is a batch
      small = jaxprune.compact(apply, structure, variables, masks)
      logits = small(small.params, x)
      ```

      With a state, such as that of `eqx.nn.BatchNorm`:

      ```python
      model, state = eqx.nn.make_with_state(CNN)(jax.random.key(0))  # called as model(x, state)
      apply, variables = jaxprune.from_equinox(model, state)
      ```

    Args:
      model: a callable `eqx.Module` for one example, as Equinox's layers are. It is used in
        inference mode.
      state: its state, if it has one. The model then takes it behind the inputs, and returns the
        new one beside its output.
      **kwargs: passed to every call.

    Returns:
      `apply(variables, *inputs)`, mapped over the leading axis of every input, and the variables:
      the model with its floating point arrays alone, as `eqx.partition` leaves it, or `{"params":
      that model, "state": state}` where there is a state.
    """
    equinox: Any = _library("equinox", "equinox")
    params, static = equinox.partition(equinox.nn.inference_mode(model), equinox.is_inexact_array)

    def apply(variables: Any, *inputs: Any) -> Any:
        if state is None:
            whole = equinox.combine(variables, static)
            return jax.vmap(lambda *example: whole(*example, **kwargs))(*inputs)
        whole, now = equinox.combine(variables["params"], static), variables["state"]
        return jax.vmap(lambda *example: whole(*example, now, **kwargs)[0])(*inputs)

    return apply, params if state is None else {"params": params, "state": state}


def from_haiku(
    transformed: Any, params: Any, state: Any = None, *, rng: Any = None, **kwargs: Any
) -> tuple[Apply, Any]:
    """A function transformed by Haiku, in the form that `jaxprune.trace` takes.

    Example:
      ```python
      network = hk.transform_with_state(lambda x, is_training: ResNet()(x, is_training))
      params, state = network.init(jax.random.key(0), x, is_training=True)
      apply, variables = jaxprune.from_haiku(network, params, state, is_training=False)
      structure = jaxprune.trace(apply, variables, x)
      small = jaxprune.compact(apply, structure, variables, masks)
      logits = small(small.params, x)
      ```

    Args:
      transformed: what `hk.transform` or `hk.transform_with_state` returned, with or without
        `hk.without_apply_rng`.
      params: its parameters.
      state: its state, if it has one.
      rng: a random key, if the network needs one even in inference.
      **kwargs: passed to every call, such as `is_training=False`.

    Returns:
      `apply(variables, *inputs)`, and the variables: `params` alone, or `{"params": params,
      "state": state}` where there is a state. The new state is left out of what it returns.

    Raises:
      ValueError: the network has a state and none is given, or the other way round.
    """
    haiku: Any = _library("haiku", "dm-haiku")
    stateful = isinstance(transformed, haiku.TransformedWithState)
    if stateful != (state is not None):
        raise ValueError(
            "from_haiku takes a state where the network comes from hk.transform_with_state, and "
            "only there"
        )
    takes_key = "rng" in inspect.signature(transformed.apply).parameters
    key = (rng,) if takes_key else ()

    def apply(variables: Any, *inputs: Any) -> Any:
        if not stateful:
            return transformed.apply(variables, *key, *inputs, **kwargs)
        return transformed.apply(variables["params"], variables["state"], *key, *inputs, **kwargs)[
            0
        ]

    return apply, {"params": params, "state": state} if stateful else params


def _library(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"this adapter needs {package}: pip install {package}") from error
