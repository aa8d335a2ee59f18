"""A network of the user's own for the command: ``--model module:function``.

The function may take `image_shape`, `num_classes` and, for Flax NNX, `rngs`, by these names. It
returns a Flax Linen module, a Flax NNX module, or an object with the functions of `Network`.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax import Array

from jaxprune.errors import UserError, first_line
from jaxprune.files import functions
from jaxprune.networks.adapters import nnx_with
from jaxprune.networks.network import Network, Variables

KIND = "model"
"""What messages call it."""

MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}
"""Arguments of a module's call that say whether it is trained, and what they are then."""

_WANTED = (
    "a Flax Linen or NNX module, or an object with the functions init, apply and apply_train "
    "(jaxprune.Network)"
)


def build(name: str, image_shape: tuple[int, ...], num_classes: int) -> Network:
    """Builds the network that a user's function returns.

    A Linen module is initialised with the seed of the run. An NNX module comes with its weights:
    where the function takes `rngs` it is called with the seed's, and otherwise what it returns is
    where training starts, which may have been trained before. A module whose call has an argument
    of `MODES` is called with it. Dropout draws from a key that follows from the batch.

    Args:
        name: "module:function", as the user typed it; the module is imported.
        image_shape: The shape of one example, without the batch axis.
        num_classes: How many classes the data have; the network must have at least as many outputs.

    Raises:
        UserError: The function cannot be found or called, returns something else, or what it
            returns does not fit the data.
    """
    function = functions.find(KIND, name)
    about = {"image_shape": image_shape, "num_classes": num_classes}
    taken = functions.asks_for(KIND, name, function, {*about, "rngs"})
    given = {key: value for key, value in about.items() if key in taken}

    def make(rngs: nnx.Rngs) -> Any:
        with_rngs = {"rngs": rngs} if "rngs" in taken else {}
        return functions.call(KIND, name, function, **given, **with_rngs)

    made = make(nnx.Rngs(0))
    if isinstance(made, nn.Module):
        network = _of_linen(made, image_shape)
    elif isinstance(made, nnx.Module):
        network = _of_nnx(made, make if "rngs" in taken else None)
    elif all(callable(getattr(made, part, None)) for part in ("init", "apply", "apply_train")):
        flat = bool(getattr(made, "flat", False))
        network = Network(made.init, made.apply, made.apply_train, flat=flat)
    else:
        kind = f"the class {made.__name__}" if isinstance(made, type) else f"a {_kind(made)}"
        raise UserError(f"the {KIND} {name!r} returned {kind}; it must return {_WANTED}")
    network = network._replace(name=name)
    shape = (prod(image_shape),) if network.flat else image_shape
    content = _checked(network, shape, num_classes)
    return network._replace(content=content)


def _kind(value: Any) -> str:
    return type(value).__name__


def _of_linen(module: nn.Module, image_shape: tuple[int, ...]) -> Network:
    inference, training = _modes(type(module).__call__)  # type: ignore[operator]

    def init(key: Array) -> Variables:
        variables = module.init(key, jnp.zeros((1, *image_shape)), **inference)
        return dict(nn.meta.unbox(variables))

    def apply(variables: Variables, x: Array) -> Array:
        logits: Any = module.apply(variables, x, **inference)
        return logits

    def apply_train(variables: Variables, x: Array) -> tuple[Array, Variables]:
        mutable = [collection for collection in variables if collection != "params"]
        rngs = {"dropout": jax.random.fold_in(jax.random.key(0), _salt(x))}
        logits, state = module.apply(variables, x, rngs=rngs, mutable=mutable, **training)
        return logits, dict(state)

    return Network(jax.jit(init), apply, apply_train, module=module)


def _of_nnx(model: nnx.Module, make: Callable[[nnx.Rngs], nnx.Module] | None) -> Network:
    inference, training = _modes(type(model).__call__)  # type: ignore[operator]
    fitted, used = nnx.clone(model), nnx.clone(model)
    fitted.train()
    used.eval()

    def variables_of(model: nnx.Module) -> Variables:
        parts: Any = nnx.split(model, nnx.Param, nnx.RngState, ...)
        _, params, _, state = parts
        return {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}

    def fresh(key: Array) -> Variables:
        assert make is not None
        return variables_of(make(nnx.Rngs(key)))

    own = variables_of(model)
    init = jax.jit(fresh) if make else lambda key: own

    def apply(variables: Variables, x: Array) -> Array:
        return nnx_with(used, variables)(x, **inference)

    def apply_train(variables: Variables, x: Array) -> tuple[Array, Variables]:
        salt = _salt(x)

        def salted(leaf: Array) -> Array:
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return jax.random.fold_in(leaf, salt) if is_key else leaf

        parts: Any = nnx.split(fitted, nnx.RngState, ...)
        graph, keys, others = parts
        now = nnx_with(nnx.merge(graph, jax.tree.map(salted, keys), others), variables)
        logits = now(x, **training)
        return logits, {"state": variables_of(now)["state"]}

    return Network(init, apply, apply_train, module=model)


def _modes(call: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a module's call for inference and for training."""
    known = {name: MODES[name] for name in inspect.signature(call).parameters if name in MODES}
    return {name: not value for name, value in known.items()}, known


def _salt(x: Array) -> Array:
    """A number, uint32, that follows from a batch and the order of its examples.

    Networks are functions of variables and batch alone. In training every batch is drawn anew, so
    its values serve as the source of dropout's randomness.
    """
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32).ravel()
    odd = 2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1
    return (bits * odd).sum(dtype=jnp.uint32)


def _checked(network: Network, shape: tuple[int, ...], num_classes: int) -> str:
    """Raises UserError unless the functions fit together and the data; returns their content."""
    name, key = network.name, jax.random.PRNGKey(0)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    with _one_line(f"the {KIND} {name!r} cannot be initialised"):
        variables = jax.eval_shape(network.init, key)
    if not (isinstance(variables, Mapping) and jax.tree.leaves(variables.get("params"))):
        raise UserError(
            f"the {KIND} {name!r} has variables of type {_kind(variables)}; init must return a "
            "dict whose entry 'params' holds the parameters that are trained"
        )
    takes = f"a batch float32 {list(x.shape)}"
    with _one_line(f"the {KIND} {name!r} cannot take {takes}"):
        logits = jax.eval_shape(network.apply, variables, x)
    _check_logits(name, logits, takes, num_classes)
    with _one_line(f"the {KIND} {name!r} cannot take {takes} in training"):
        answer = jax.eval_shape(network.apply_train, variables, x)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
        raise UserError(
            f"the {KIND} {name!r} returns a {_kind(answer)} in training; apply_train must return "
            "(logits, state), where state is a dict"
        )
    _check_logits(name, answer[0], f"{takes} in training", num_classes)
    for entry, value in answer[1].items():
        same = entry != "params" and _alike(variables.get(entry), value)
        if not same:
            raise UserError(
                f"the {KIND} {name!r}: the entry {entry!r} of the state that apply_train returns "
                "is no entry of the variables besides 'params', of the same shapes and types"
            )
    return _content(network, variables, x)


def _alike(one: Any, other: Any) -> bool:
    def kinds(tree: Any) -> list[Any]:
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]

    tree: Any = jax.tree.structure(one)
    return tree == jax.tree.structure(other) and kinds(one) == kinds(other)


def _check_logits(name: str, logits: Any, takes: str, num_classes: int) -> None:
    if not isinstance(logits, jax.ShapeDtypeStruct):
        raise UserError(
            f"the {KIND} {name!r} returns a {_kind(logits)} for {takes}; it must return logits "
            "[B, classes]"
        )
    if logits.ndim != 2 or logits.shape[0] != 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
        raise UserError(
            f"the {KIND} {name!r} returns {logits.dtype} {list(logits.shape)} for {takes}; it must "
            f"return float logits [2, {num_classes}]"
        )
    if logits.shape[1] < num_classes:
        raise UserError(
            f"the {KIND} {name!r} has {logits.shape[1]} outputs, and the labels of the data reach "
            f"{num_classes - 1}: give it {num_classes} outputs (the function may take num_classes)"
        )


@contextmanager
def _one_line(what: str) -> Any:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a user's network may raise anything
        raise UserError(f"{what} ({type(error).__name__}: {first_line(error)})") from error


def _content(network: Network, variables: Any, x: Any) -> str:
    """A hash of what a network computes in inference and in training, and of its first weights.

    The programs are hashed as they are handed to the compiler, for one platform whatever the
    device, so that code elsewhere in the user's files does not matter.
    """

    def trained(params: Any, state: Any, x: Array) -> Any:
        logits, new = network.apply_train({**state, "params": params}, x)
        return logits.astype(jnp.float32).sum(), new

    state = {entry: value for entry, value in variables.items() if entry != "params"}
    step = jax.value_and_grad(trained, has_aux=True, allow_int=True)
    digest = hashlib.sha256()
    for function, arguments in (
        (network.apply, (variables, x)),
        (step, (variables["params"], state, x)),
    ):
        with _one_line(f"the {KIND} {network.name!r} cannot be differentiated or compiled"):
            program = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cpu",))
        digest.update(program.as_text().encode())
    for leaf in jax.tree.leaves(network.init(jax.random.PRNGKey(0))):
        digest.update(f"{leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()
