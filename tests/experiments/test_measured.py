"""What the speed pages have in common."""

import argparse

import measured
import pytest


def test_quartiles_need_two_measurements():
    assert [measured.several(text) for text in ("2", "15")] == [2, 15]
    for text in ("1", "0", "-3", "2.5", "many", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 2"):
            measured.several(text)
