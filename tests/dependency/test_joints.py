"""Joints against exhaustive reasoning over which positions may be kept together."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.dependency.atoms import FIXED, AtomTable, CouplingError, Reason
from jaxprune.dependency.joints import factors, join, regroup, settle, slots, split

WHY = Reason("a test", "")


def test_an_axis_is_the_joint_of_what_it_is_split_into():
    table = AtomTable()
    axis = table.fresh(6)
    rows, columns = split(table, axis, (2, 3), WHY)
    settle(table)
    expected = [{r, c} for r, c in itertools.product(table.find(rows), table.find(columns))]
    assert [set(row) for row in factors(table, table.find(axis))] == expected


def test_merging_what_was_split_gives_the_axis_back():
    table = AtomTable()
    axis = table.fresh(6)
    rows, columns = split(table, axis, (2, 3), WHY)
    (merged,) = regroup(table, [rows, columns], [6], WHY)
    (shuffled,) = regroup(table, [columns, rows], [6], WHY)
    settle(table)
    np.testing.assert_array_equal(table.find(merged), table.find(axis))
    np.testing.assert_array_equal(
        table.find(shuffled).reshape(3, 2), table.find(axis).reshape(2, 3).T
    )


def test_splitting_in_the_same_way_again():
    table = AtomTable()
    axis = table.fresh(12)
    first = split(table, axis, (3, 4), WHY)
    again = split(table, axis, (3, 4), WHY)
    finer = split(table, axis, (3, 2, 2), WHY)
    settle(table)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(table.find(a), table.find(b))
    np.testing.assert_array_equal(table.find(finer[0]), table.find(first[0]))
    assert len(np.unique(table.find(np.concatenate(finer)))) == 7


def test_a_frozen_factor_leaves_the_other():
    table = AtomTable()
    axis = table.fresh(6)
    rows, columns = split(table, axis, (2, 3), WHY)
    table.freeze(rows, WHY)
    settle(table)
    np.testing.assert_array_equal(table.find(axis), np.tile(table.find(columns), 2))
    assert table.removable(axis).all()
    assert not len(table.joints)


def test_a_frozen_position_freezes_its_row_and_column():
    table = AtomTable()
    axis = table.fresh(6)
    rows, columns = split(table, axis, (2, 3), WHY)
    table.freeze(axis[4:5], Reason("one of them", "here"))
    settle(table)
    np.testing.assert_array_equal(table.removable(rows), [True, False])
    np.testing.assert_array_equal(table.removable(columns), [True, False, True])
    assert table.reason(int(columns[1])) == Reason("one of them", "here")
    np.testing.assert_array_equal(table.removable(axis), [True, True, True, True, False, True])


def test_a_free_axis_splits_beside_a_fixed_one():
    table = AtomTable()
    axis = table.fresh(3)
    (merged,) = regroup(table, [np.zeros(4, np.int64), axis], [12], WHY)
    np.testing.assert_array_equal(merged, np.tile(axis, 4))
    outer, inner = regroup(table, [merged], [4, 3], WHY)
    assert (outer == FIXED).all()
    np.testing.assert_array_equal(inner, axis)


def test_the_slots_of_given_joints():
    pairs = np.array([[1, 3], [1, 4], [2, 3], [2, 4]])
    table = AtomTable(4, pairs)
    known = slots(table)
    vector = known.extend(np.array([1, 2, 3, 5, 7]), np)
    np.testing.assert_array_equal(vector[known.of_root[5:9]], [10, 14, 15, 21])
    rows, columns = split(table, np.arange(5, 9), (2, 2), WHY)
    np.testing.assert_array_equal(table.find(rows), [1, 2])
    np.testing.assert_array_equal(table.find(columns), [3, 4])


def test_a_given_channel_is_no_joint():
    table = AtomTable(6)
    split(table, np.arange(1, 7), (2, 3), WHY)
    with pytest.raises(CouplingError, match="more than one way"):
        settle(table)


def consistent(num_atoms, joints, equal, always):
    """All ways to keep atoms that joints, couplings and fixed atoms allow: bool [ways, atoms]."""
    ways = np.array(list(itertools.product([False, True], repeat=num_atoms)))
    for atom, left, right in joints:
        ways = ways[ways[:, atom] == (ways[:, left] & ways[:, right])]
    for a, b in equal:
        ways = ways[ways[:, a] == ways[:, b]]
    for atom in always:
        ways = ways[ways[:, atom]]
    return ways


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=3),
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), max_size=3),
    st.lists(st.integers(1, 8), max_size=1),
)
def test_what_is_concluded_is_never_wrong(pairs, equal, always):
    """Every mask of the independent atoms gives a way to keep atoms that breaks no constraint."""
    table = AtomTable()
    base = table.fresh(5)
    joints = []
    for left, right in pairs:
        (atom,) = join(table, base[left - 1 : left], base[right - 1 : right])
        joints.append((int(atom), left, right))
    num_atoms = max(table.size, 9)
    equal = [(a, b) for a, b in equal if max(a, b) < table.size]
    always = [a for a in always if a < table.size]
    for a, b in equal:
        table.unite(np.array([a]), np.array([b]), WHY)
    for a in always:
        table.freeze(np.array([a]), WHY)
    settle(table)
    atoms = np.arange(1, table.size)
    bases = factors(table, table.find(atoms))
    free = np.unique(bases[(bases != FIXED) & table.removable(bases)])
    allowed = {tuple(way[1 : table.size]) for way in consistent(num_atoms, joints, equal, always)}
    for kept in itertools.product([False, True], repeat=len(free)):
        keep = np.ones(table.size, bool)
        keep[free] = kept
        assert tuple(keep[bases].all(1)) in allowed
