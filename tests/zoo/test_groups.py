"""What the architecture says can be removed, can be."""

import pytest

from zoo import NAMES
from zoo.removal import traced


@pytest.mark.parametrize("name", NAMES)
def test_expected_groups(name):
    """Each layer belongs to a group of each size that is expected of it."""
    network, structure = traced(name)
    sizes = {
        layer: sorted(group.size for group in structure.groups if layer in group.layers)
        for layer in network.least
    }
    missing = {
        layer: (expected or "any", sizes[layer])
        for layer, expected in network.least.items()
        if not (set(expected) <= set(sizes[layer]) and sizes[layer])
    }
    assert not missing, f"(expected, found):\n{missing}\n{structure}"
