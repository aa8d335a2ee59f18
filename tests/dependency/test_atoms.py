import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxprune.dependency.atoms import AtomTable, CouplingError, Reason, fixed_axis

WHY = Reason("a test", "")

pairs = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=60)


def closure(edges, frozen, size):
    """The classes of atoms 1 to `size`, and which of them are frozen, by repeated passes."""
    label = list(range(size + 1))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            low = min(label[a], label[b])
            changed |= label[a] != low or label[b] != low
            label[a] = label[b] = low
    dead = {label[atom] for atom in frozen}
    return label[1:], [label[atom] in dead for atom in range(1, size + 1)]


@given(pairs, st.lists(st.integers(1, 40), max_size=5), st.integers(0, 60))
def test_union_find_equals_closure(edges, frozen, when):
    table = AtomTable()
    atoms = table.fresh(40)
    np.testing.assert_array_equal(atoms, np.arange(1, 41))
    left, right = (np.array(side) for side in zip(*edges, strict=True))
    table.unite(left[:when], right[:when], WHY)
    table.freeze(np.array(frozen, np.int64), WHY)
    table.unite(left[when:], right[when:], WHY)
    label, dead = closure(edges, frozen, 40)
    np.testing.assert_array_equal(table.find(atoms), label)
    np.testing.assert_array_equal(table.removable(atoms), np.logical_not(dead))


def test_meeting_a_fixed_position_freezes():
    table = AtomTable()
    atoms = table.fresh(3)
    table.unite(np.array([0, atoms[1], 0]), atoms, Reason("met", "here"))
    np.testing.assert_array_equal(table.removable(atoms), [False, True, False])
    assert table.reason(int(atoms[0])) == Reason("met", "here")
    assert table.reason(int(atoms[1])) is None


def test_the_first_reason_survives_a_union():
    table = AtomTable()
    a, b = table.fresh(2), table.fresh(2)
    table.freeze(b[:1], Reason("first", ""))
    table.freeze(a[:1], Reason("second", ""))
    table.unite(a, b, WHY)
    assert table.reason(int(a[0])) == Reason("first", "")


def test_the_table_grows():
    table = AtomTable()
    first = table.fresh(5)
    many = table.fresh(5000)
    table.unite(np.full(5000, first[0]), many, WHY)
    assert (table.find(many) == first[0]).all()


def test_an_axis_of_one_position_is_fixed():
    table = AtomTable()
    np.testing.assert_array_equal(table.fresh(1), fixed_axis(1))


def test_channels_stay_distinct_and_removable():
    table = AtomTable(channels=4)
    free = table.fresh(2)
    table.unite(np.array([1, 2]), free, WHY)
    np.testing.assert_array_equal(table.find(free), [1, 2])
    with pytest.raises(CouplingError, match="a test"):
        table.unite(free[:1], free[1:], WHY)
    with pytest.raises(CouplingError, match="a test"):
        table.freeze(free, WHY)
    frozen = table.fresh(2)
    table.freeze(frozen, WHY)
    with pytest.raises(CouplingError):
        table.unite(np.array([3, 4]), frozen, WHY)
