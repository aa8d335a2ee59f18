"""The environment that stable-baselines3 is given, and its rounds."""

import pytest

pytest.importorskip("torch", reason="what is measured beside, of the extra bench")
pytest.importorskip("gymnasium", reason="what is measured beside, of the extra bench")
pytest.importorskip("stable_baselines3", reason="what is measured beside, of the extra bench")

import ppo_steps


@pytest.mark.parametrize("evaluation", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_observations_costs_and_rewards_are_those_of_the_tool(evaluation):
    ppo_steps.check(ppo_steps.pose("lenet300", evaluation=evaluation))


@pytest.mark.slow
@pytest.mark.parametrize("environments", [32, 1])
def test_a_round_beside_plays_as_many_steps_and_makes_as_many_updates(environments):
    case = ppo_steps.pose("lenet300", evaluation=False)
    config = ppo_steps.settings(32)
    way = ppo_steps.Baselines3(config, case, environments, threads=1)
    for number in (1, 2):
        way.round()
        assert way.model.num_timesteps == number * 32 * case.rules.num_steps
        assert way.model._n_updates == number * config.epochs
        assert len(way.costs) == number
    assert 0 < way.costs[0] < 1
    assert way.multiplier.value == way.model.env.get_attr("multiplier")[0] != 1
