"""The settings of the CRL agent and of its learning core."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from jaxprune.search.ranges import (
    AT_LEAST_ONE,
    INSIDE_UNIT,
    NOT_NEGATIVE,
    POSITIVE,
    UNIT,
    UNIT_WITHOUT_1,
    require,
    require_one_of,
)


@dataclass(frozen=True)
class Learning:
    """Settings of the learning core, whatever it learns on and for however long.

    Those marked *thesis* are from Table 5.3 of the thesis, the same for its coarse-grained and
    fine-grained strategies. It gives no others, so **the rest is this project's own**; `epochs`,
    `clip` and `max_grad_norm` are the defaults of stable-baselines, on which the thesis builds.
    """

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and of both critics (thesis)."""

    learning_rate: float = 3e-4
    """Adam's learning rate, for the policy and both critics (thesis)."""

    minibatch_size: int = 64
    """Steps in a mini-batch (thesis)."""

    epochs: int = 10
    """Passes over the steps of a round, at most."""

    target_kl: float = 0.01
    """The updates of a round stop once the KL divergence exceeds 1.5 times this (thesis)."""

    clip: float = 0.2
    """PPO's clip range: how far probability ratios may move from 1 and still gain."""

    max_grad_norm: float = 0.5
    """Largest gradient norm, for each network on its own."""

    initial_sigma: float = 0.2
    """The policy's standard deviation before learning. Actions lie in [0, 1]: the deviation of 1
    that stable-baselines has would mostly clip them to the ends of the range."""

    reward_gamma: float = 0.99
    """Discount factor of rewards (thesis)."""

    reward_lambda: float = 0.95
    """GAE's lambda for rewards (thesis). Below 1, and with states that do not tell earlier actions,
    a reward at the end counts less for the first layers than their cost does."""

    cost_gamma: float = 1.0
    """Discount factor of costs (thesis)."""

    cost_lambda: float = 1.0
    """GAE's lambda for costs (thesis)."""

    initial_multiplier: float = 1.0
    """The Lagrange multiplier of each budget before learning (thesis)."""

    dual: Literal["ascent", "pid"] = "pid"
    """How multipliers are updated: by projected gradient ascent or by a PID controller."""

    multiplier_rate: float = 0.1
    """Learning rate of the ascent, and integral gain of the PID controller, per round (thesis,
    where it is Adam's, which steps by it whatever the violation)."""

    proportional_gain: float = 1.0
    """Proportional gain of the PID controller."""

    derivative_gain: float = 0.0
    """Derivative gain of the PID controller."""

    violation_smoothing: float = 0.0
    """Decay of the moving average of violations that these two gains act on, in [0, 1)."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, not {self.hidden}")
        require(self, AT_LEAST_ONE, "minibatch_size", "epochs")
        require(
            self, POSITIVE, "learning_rate", "target_kl", "clip", "max_grad_norm", "initial_sigma"
        )
        require(
            self,
            NOT_NEGATIVE,
            "initial_multiplier",
            "multiplier_rate",
            "proportional_gain",
            "derivative_gain",
        )
        require(self, UNIT, "reward_gamma", "reward_lambda", "cost_gamma", "cost_lambda")
        require(self, UNIT_WITHOUT_1, "violation_smoothing")
        require_one_of(self, "dual", ("ascent", "pid"))


@dataclass(frozen=True)
class Config(Learning):
    """Settings of the CRL agent; those of its learning core are inherited.

    Docstrings mention values from the thesis (Table 5.3); a default may differ, since the thesis's
    40,000 timesteps with fine-tuning take a GPU.
    """

    strategy: Annotated[
        Literal["coarse", "fine"],
        tyro.conf.arg(aliases=["--strategy"]),
    ] = "coarse"
    """What an action decides: coarse, how much of a layer is removed; fine, which channels."""

    online: Annotated[bool, tyro.conf.arg(aliases=["--online"])] = False
    """Train the network from scratch together with the policy (thesis, section 4.5)."""

    iterations: int = 40
    """Rounds of episodes and learning. The thesis has 40,000 timesteps, which are
    40,000 / (episodes * layers) rounds."""

    seconds: float | None = None
    """Stop after the round that exceeds this time; results then depend on the machine."""

    episodes: int = 32
    """Networks pruned in one round, as one batch."""

    reward: Literal["accuracy", "loss"] = "accuracy"
    """The policy's reward: the accuracy on the images of the search (thesis), or minus the loss
    (equation 2 of the paper)."""

    finetune_schedule: tuple[int, ...] = (0,)
    """Fine-tuning steps of a pruned network before its reward, in equal intervals of the search;
    the thesis has 0 32 128. Ignored with --online."""

    initial_action: float | None = None
    """The coarse policy's mean before learning, in (0, 1); by default the ratio by which uniform
    pruning meets the budgets. The thesis does not say; its sigmoid would start at 0.5."""

    initial_ratio: float | None = None
    """Largest fraction of a layer that a coarse action may remove at first; by default 0.9, or what
    the tightest budget removes if that is more. Thesis: 0.8 if 20 % may stay, 0.9 if 10 %."""

    ratio_rise: float = 0.05
    """How much it grows by the end (thesis: "action clip gradient", 0.05)."""

    online_steps: int = 32
    """Training steps of the network per round, with --online."""

    validated: int = 4
    """Networks per round that are scored on the validation split: its best within the budget."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, AT_LEAST_ONE, "iterations", "episodes", "validated", "online_steps")
        require(self, NOT_NEGATIVE, "seconds")
        if not self.finetune_schedule or min(self.finetune_schedule) < 0:
            raise ValueError(
                f"finetune_schedule must be one or more step counts of at least 0, not "
                f"{self.finetune_schedule}"
            )
        require(self, UNIT, "initial_ratio", "ratio_rise")
        require(self, INSIDE_UNIT, "initial_action")

    def within_a_round(self) -> "Config":
        """The settings without those of the outer loop, changing which compiles nothing."""
        return replace(
            self,
            iterations=1,
            seconds=None,
            finetune_schedule=(0,),
            online_steps=1,
            initial_action=None,
            initial_ratio=None,
        )
