"""Pytrees taken apart into leaves with their places, and put together again."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jaxprune.errors import UserError

Key = tuple[str | int, ...]
"""Place of a leaf: names in dicts, named tuples and dataclasses, indices in lists and tuples.

Dicts may have numbers as keys, too, as Flax NNX has for its lists.
"""


def leaves_by_key(tree: Any) -> list[tuple[Key, Any]]:
    """The leaves of a pytree with their places, in JAX's order."""
    return [
        (tuple(_key_part(entry) for entry in path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _key_part(entry: Any) -> str | int:
    match entry:
        case jax.tree_util.GetAttrKey(name=name):
            return name
        case jax.tree_util.SequenceKey(idx=index) | jax.tree_util.FlattenedIndexKey(key=index):
            return index
        case jax.tree_util.DictKey(key=key):
            return key if isinstance(key, int) and not isinstance(key, bool) else str(key)
    return str(entry)


def spelled(key: Iterable[str | int]) -> str:
    """A place as one word."""
    return "/".join(map(str, key)) or "the array"


def rebuilt(leaves: Mapping[Key, Any], like: Any, what: str) -> Any:
    """A pytree from its leaves.

    Args:
        leaves: {place: leaf}.
        like: A pytree of the structure wanted, whose leaves only mark places; None for dicts and
            lists alone.
        what: Where the leaves come from, for the message.

    Raises:
        UserError: `like` has other places.
    """
    if like is None:
        return nested(leaves)
    wanted = [key for key, _ in leaves_by_key(like)]
    if set(wanted) != set(leaves):
        missing = sorted(spelled(key) for key in set(wanted) - set(leaves))
        extra = sorted(spelled(key) for key in set(leaves) - set(wanted))
        raise UserError(
            f"{what} belongs to another configuration or version: "
            f"{len(missing)} arrays missing {missing[:3]}, {len(extra)} not expected {extra[:3]}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[key] for key in wanted])


def plain(tree: Any) -> Any:
    """The pytree in dicts and lists alone, as it is read back without a template.

    Named tuples and dataclasses become dicts, tuples become lists, and so do dicts whose keys are
    the numbers from 0 on; other keys become strings. Containers without any leaf are left out.
    """
    return nested(dict(leaves_by_key(tree)))


def nested(leaves: Mapping[Key, Any]) -> Any:
    """Dicts and lists as the places have them."""
    if list(leaves) == [()]:
        return leaves[()]
    children: dict[str | int, dict[Key, Any]] = {}
    for (first, *rest), leaf in leaves.items():
        children.setdefault(first, {})[tuple(rest)] = leaf
    tree = {part: nested(below) for part, below in children.items()}
    if tree and set(tree) == set(range(len(tree))):
        return [tree[index] for index in range(len(tree))]
    return {str(part): below for part, below in tree.items()}
