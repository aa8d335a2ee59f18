"""A compact network as StableHLO, with a free batch size where its examples are independent."""

from collections.abc import Callable
from typing import Any

import jax
from jax import export as jax_export

from jaxprune.dependency import CompactNetwork
from jaxprune.errors import UserError, first_line
from jaxprune.files.trees import plain
from jaxprune.networks.agreement import difference
from jaxprune.networks.export.examples import Inputs, influences, over_examples, read
from jaxprune.networks.export.quiet import quiet

PLATFORMS = ("cpu", "cuda", "tpu")
"""Where the exported programs run."""


def stablehlo(small: CompactNetwork, *inputs: Any) -> jax_export.Exported:
    """A compact network as a StableHLO program, on CPU, CUDA and TPU.

    ::

        exported = jaxprune.networks.export.stablehlo(small, x)
        logits = exported.call(small.params, x[:3])
        text = exported.mlir_module()
        content = exported.serialize()  # jax.export.deserialize reads it, without the model's code

    The program takes any number of examples if the network treats them independently, as networks
    do in inference mode. If they depend on each other, as nodes of a graph do, or if a result sums
    over them, as a balancing loss does, it takes as many as `inputs` hold. It is compared with the
    network at that size, and at another one if it takes any. Prints and checks are left out.

    `jaxprune.save` writes it to a folder together with the parameters.

    Args:
        small: The network.
        *inputs: A batch of inputs as the network takes them: arrays, or trees of arrays. Arrays
            whose leading axis is as long as that of the first are batches, others belong to all
            examples.

    Returns:
        The program; its `call(params, *inputs)` takes a tree like `small.params`.

    Raises:
        UserError: The network calls Python, or its program computes something else.
    """
    return checked(small, (small.params,), read(inputs))


def checked(
    function: Callable[..., Any], leading: tuple[Any, ...], inputs: Inputs, own_size: bool = False
) -> jax_export.Exported:
    """Exports a function, reads the program back and compares it with the function.

    Args:
        function: `function(*leading, *inputs)`.
        leading: Its arguments before the inputs, such as parameters.
        inputs: A batch.
        own_size: Whether the program takes only as many examples as `inputs` hold, in any case.

    Raises:
        UserError: The function calls Python, or its program computes something else.
    """
    silent = quiet(lambda *arguments: _portable(function(*arguments)))
    wanted = jax.jit(silent)
    # A program that was loaded cannot be mapped over examples, but may take any number itself.
    for mapped in () if own_size else (True, False):
        try:
            network = over_examples(silent, leading, inputs) if mapped else silent
            (batch,) = jax_export.symbolic_shape("batch")
            program = network and _export(network, leading, inputs.of_size(batch))
            sizes = (inputs.batch, inputs.batch + 1)
            if (
                program
                and not influences(wanted, leading, inputs)
                and not _unlike(program, wanted, leading, inputs, sizes)
            ):
                return program
        except UserError:
            raise
        except Exception:  # what a function raises that is made for batches of one size
            pass
    try:
        program = _export(silent, leading, inputs.of_size(inputs.batch))
    except UserError:
        raise
    except Exception as error:  # hundreds of primitives, each with its own complaints
        raise UserError(
            f"the network cannot be written as StableHLO: {first_line(error)}"
        ) from error
    found = _unlike(program, wanted, leading, inputs, (inputs.batch,))
    if found:
        raise UserError(
            f"the exported program computes something else than the network ({found}); does the "
            "network return the same when it is called twice?"
        )
    return program


def _unlike(
    program: jax_export.Exported,
    wanted: Callable[..., Any],
    leading: tuple[Any, ...],
    inputs: Inputs,
    sizes: tuple[int, ...],
) -> str | None:
    """How a program differs from a function on batches of some sizes; None if it does not."""
    for size in sizes:
        for values in inputs.trials(size):
            given = (*leading, *values)
            found = difference(program.call(*given), wanted(*given), given)
            if found:
                return found
    return None


def _portable(outputs: Any) -> Any:
    """Outputs in dicts, lists and tuples alone: `jax.export` writes no other containers."""

    def known(tree: Any) -> bool:
        children = tree.children()
        kind = tree.node_data()
        builtin = kind is None or kind[0] in (dict, list, tuple, type(None))
        return builtin and all(map(known, children))

    return outputs if known(jax.tree.structure(outputs)) else plain(outputs)


def _export(
    function: Callable[..., Any], leading: tuple[Any, ...], inputs: tuple[Any, ...]
) -> jax_export.Exported:
    """The program as it is read back from its bytes; `inputs` are shapes, also symbolic ones."""
    shapes = jax.eval_shape(lambda: leading)
    exported = jax_export.export(jax.jit(function), platforms=PLATFORMS)(*shapes, *inputs)
    return jax_export.deserialize(exported.serialize())
