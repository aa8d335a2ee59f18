"""Settings of the learning core."""

import pytest

from jaxprune.search.agents.ppo_lagrangian.config import Learning


def test_the_defaults_of_table_5_3() -> None:
    settings = Learning()
    assert settings.hidden == (64, 64)
    assert (settings.learning_rate, settings.minibatch_size) == (3e-4, 64)
    assert settings.target_kl == 0.01
    assert (settings.reward_gamma, settings.reward_lambda) == (0.99, 0.95)
    assert (settings.cost_gamma, settings.cost_lambda) == (1.0, 1.0)
    assert (settings.initial_multiplier, settings.multiplier_rate) == (1.0, 0.1)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hidden": ()}, r"hidden must be widths of at least 1, not \(\)"),
        ({"hidden": (64, 0)}, r"hidden must be widths of at least 1, not \(64, 0\)"),
        ({"minibatch_size": 0}, "minibatch_size must be at least 1, not 0"),
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, not nan"),
        ({"target_kl": -0.1}, "target_kl must be positive, not -0.1"),
        ({"clip": 0.0}, "clip must be positive, not 0.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be positive, not 0.0"),
        ({"initial_sigma": 0.0}, "initial_sigma must be positive, not 0.0"),
        ({"initial_multiplier": -1.0}, "initial_multiplier must not be negative, not -1.0"),
        ({"multiplier_rate": -0.1}, "multiplier_rate must not be negative, not -0.1"),
        ({"proportional_gain": -1.0}, "proportional_gain must not be negative, not -1.0"),
        ({"derivative_gain": -1.0}, "derivative_gain must not be negative, not -1.0"),
        ({"reward_gamma": 1.1}, r"reward_gamma must lie in \[0, 1\], not 1.1"),
        ({"cost_lambda": -0.1}, r"cost_lambda must lie in \[0, 1\], not -0.1"),
        ({"violation_smoothing": 1.0}, r"violation_smoothing must lie in \[0, 1\), not 1.0"),
        ({"dual": "adam"}, "dual must be one of ascent, pid, not 'adam'"),
    ],
)
def test_a_wrong_setting_is_named(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Learning(**setting)
