"""Networks of other libraries as functions `apply(variables, *inputs)`.

`jaxprune.trace` takes any function of a pytree of arrays. The adapters turn each library's calling
convention into that form, in inference mode, and import the library only when they are called.

A module's fields hold its widths, so the parameters of a compact network do not fit into the module
that they came from. Call the compact network itself, `small(small.params, x)`, or let
`jaxprune.networks.narrow` adapt a Flax module, and `narrow_keras` a Keras model.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import jax

from jaxprune.errors import UserError

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
      `apply(variables, *inputs)`, with variables as `module.init` returns them. No collection is
      mutable: a module that updates one, such as BatchNorm in training mode, raises.
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
      every `nnx.Param`, "state" the rest, such as BatchNorm's statistics and caches. Random keys
      stay with `apply`, which begins every call with the same ones; what a call changes in the
      model (a cache, the count of keys) is dropped. The arrays are the model's own, not copies.
    """
    nnx: Any = _library("flax.nnx", "flax")
    copy = nnx.clone(model)
    copy.eval()
    _, params, _, state = nnx.split(copy, nnx.Param, nnx.RngState, ...)

    def apply(variables: Any, *inputs: Any) -> Any:
        return nnx_with(copy, variables)(*inputs, **kwargs)

    return apply, {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}


def nnx_with(model: Any, variables: dict[str, Any]) -> Any:
    """A copy of an NNX model with the variables that `from_nnx` returned, or others like them.

    The numbered dicts that NNX has for lists may have become lists, as in a network from disk.
    """
    nnx: Any = _library("flax.nnx", "flax")
    graph, params, keys, state = nnx.split(model, nnx.Param, nnx.RngState, ...)

    def copied(variables: Any) -> Any:
        # A call changes variables in place, which those of another trace do not allow.
        return jax.tree.map(lambda leaf: leaf, variables)

    def filled(template: Any, values: Any) -> Any:
        result = copied(template)
        nnx.replace_by_pure_dict(result, _in_dicts(values, nnx.to_pure_dict(template)))
        return result

    return nnx.merge(
        graph,
        filled(params, variables["params"]),
        copied(keys),
        filled(state, variables.get("state", {})),
    )


def _in_dicts(tree: Any, like: Any) -> Any:
    """A tree with dicts for its lists wherever `like` has them."""
    if not isinstance(like, dict):
        return tree
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    keys = {str(key): key for key in like}
    return {keys[str(key)]: _in_dicts(branch, like[keys[str(key)]]) for key, branch in items}


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
      model: a callable `eqx.Module` for one example, like Equinox's layers. It is used in inference
        mode.
      state: its state, if it has one. The model then takes it after the inputs, and returns the new
        state after its output.
      **kwargs: passed to every call.

    Returns:
      `apply(variables, *inputs)`, mapped over the leading axis of every input, and the variables:
      the floating-point part of the model, as `eqx.partition` returns it, or `{"params": that,
      "state": state}` if there is a state.
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
    """A function transformed by Haiku as a function of its variables.

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
      "state": state}` if there is a state. `apply` drops the new state.

    Raises:
      ValueError: the network has a state and none is given, or vice versa.
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


def from_keras(model: Any, **kwargs: Any) -> tuple[Apply, dict[str, Any]]:
    """A Keras 3 model, on the JAX backend, as a function of its variables.

    Example:
      ```python
      model = keras.Sequential([keras.Input((32, 32, 3)), ...])
      apply, variables = jaxprune.from_keras(model)
      structure = jaxprune.trace(apply, variables, x)
      small = jaxprune.compact(apply, structure, variables, masks)
      logits = small(small.params, x)
      ```

    Args:
      model: the model, built: one whose input shape is known or that was called before.
      **kwargs: passed to every call.

    Returns:
      `apply(variables, *inputs)`, and the variables by their Keras paths: "params" holds those that
      are trainable, "state" the others, such as BatchNorm's statistics and the parameters of layers
      that are not trainable.

    Raises:
      UserError: Keras runs on another backend, or the model is not built.
    """
    keras_library()
    if not (getattr(model, "built", False) and model.variables):
        name = getattr(model, "name", type(model).__name__)
        raise UserError(f"the Keras model {name!r} has no variables yet: call it once, model(x)")
    trainable = len(model.trainable_variables)
    # A model of one's own may know no modes; Functional and Sequential ones always do.
    mode = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
    names = [name for name, _ in keras_variables(model)]

    def apply(variables: Any, *inputs: Any) -> Any:
        params = [variables["params"][name] for name in names[:trainable]]
        state = [variables["state"][name] for name in names[trainable:]]
        x = inputs[0] if len(inputs) == 1 else list(inputs)
        return model.stateless_call(params, state, x, **mode, **kwargs)[0]

    values = [(name, variable.value) for name, variable in keras_variables(model)]
    return apply, {"params": dict(values[:trainable]), "state": dict(values[trainable:])}


def keras_library() -> Any:
    """The module keras.

    Raises:
      ImportError: it is not installed.
      UserError: it runs on another backend than JAX.
    """
    keras: Any = _library("keras", "keras")
    if keras.config.backend() != "jax":
        raise UserError(
            f"Keras runs on {keras.config.backend()}, not on JAX: set the environment variable "
            "KERAS_BACKEND=jax before Python imports keras"
        )
    return keras


def keras_variables(model: Any) -> list[tuple[str, Any]]:
    """The variables of a Keras model by name, trainable ones first.

    A name is the variable's path; where several have the same, their numbers follow.
    """
    named: dict[str, Any] = {}
    for variable in (*model.trainable_variables, *model.non_trainable_variables):
        name, number = variable.path, 1
        while name in named:
            number += 1
            name = f"{variable.path}_{number}"
        named[name] = variable
    return list(named.items())


def _library(module: str, package: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"this adapter needs {package}: pip install {package}") from error
