"""Functions as arguments of jitted functions."""

from collections.abc import Callable

from jax.tree_util import Partial


def as_argument(function: Callable) -> Partial:
    """Wraps a function so that it can be passed to a jitted function.

    Equal functions then share what was compiled, and arrays bound by `Partial` are passed rather
    than compiled in.

    Args:
        function: Any callable.

    Returns:
        The function as a pytree.
    """
    if isinstance(function, Partial):
        return function
    try:
        hash(function)
    except TypeError:  # such as a NamedTuple of arrays with `__call__`: compiled anew each time
        return Partial(lambda *arguments: function(*arguments))
    return Partial(function)
