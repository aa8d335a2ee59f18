"""How well scores before fine-tuning rank candidates, by hand."""

import pytest
import reward_ranking


def test_agreement_by_hand():
    row = {
        "scores": {
            "batch statistics": {"loss": [1.0, 2.0, 3.0, 4.0], "seconds": 2.0},
            "prepared": {"loss": [4.0, 3.0, 2.0, 1.0], "seconds": 3.0},
        },
        "after": {
            "dense": {"loss": [0.2, 0.1, 0.3, 0.4], "accuracy": [0.9, 0.8, 0.7, 0.6]},
            "prepared": {"loss": [0.4, 0.3, 0.2, 0.1], "accuracy": [0.5, 0.6, 0.7, 0.8]},
        },
    }
    found = reward_ranking.agreement(row)
    # Of four ranks two neighbours are exchanged: 1 - 6 * 2 / (4 * 15).
    assert found["batch statistics"]["loss"] == pytest.approx(0.8)
    assert found["batch statistics"]["accuracy"] == pytest.approx(1)
    # The best three have 0.8 in the mean, all 0.75.
    assert found["batch statistics"]["gain"] == pytest.approx(5)
    assert found["prepared"]["loss"] == pytest.approx(1)
    assert found["prepared"]["gain"] == pytest.approx(5)
    assert found["prepared, then dense"]["loss"] == pytest.approx(-0.8)
    assert found["prepared, then dense"]["gain"] == pytest.approx(-5)
