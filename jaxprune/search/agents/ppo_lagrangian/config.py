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
    """Settings of the learning core: not what it learns on, nor for how long.

    Table 5.3 of the thesis gives those marked *thesis*, the same for its coarse-grained and its
    fine-grained strategy. It names no others, so **the rest is this project's own**; `epochs`,
    `clip` and `max_grad_norm` are the defaults of stable-baselines, on which the thesis builds.
    """

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the policy and of both critics (thesis)."""

    learning_rate: float = 3e-4
    """Adam's learning rate, for the policy and both critics (thesis)."""

    minibatch_size: int = 64
    """Steps of the episodes that one update sees (thesis)."""

    epochs: int = 10
    """Most passes over the steps of a round."""

    target_kl: float = 0.01
    """A round's updates end when the policy has moved by 1.5 times this KL divergence (thesis)."""

    clip: float = 0.2
    """How far from 1 a probability ratio earns more by going on."""

    max_grad_norm: float = 0.5
    """Largest norm of a gradient, each network's on its own."""

    initial_sigma: float = 0.2
    """The policy's standard deviation before learning. Actions lie in [0, 1], so that the 1 of
    stable-baselines would spread them over the whole range and mostly be clipped to its ends."""

    reward_gamma: float = 0.99
    """Discount of rewards (thesis)."""

    reward_lambda: float = 0.95
    """Lambda of the reward advantages (thesis). Below 1, and with states that do not tell what was
    done before, a reward at the end counts less for the first layers than their cost does."""

    cost_gamma: float = 1.0
    """Discount of costs (thesis)."""

    cost_lambda: float = 1.0
    """Lambda of the cost advantages (thesis)."""

    initial_multiplier: float = 1.0
    """Each budget's Lagrange multiplier before learning (thesis)."""

    dual: Literal["ascent", "pid"] = "pid"
    """What moves the multipliers: projected gradient ascent, or a PID controller."""

    multiplier_rate: float = 0.1
    """Ascent's learning rate, and the PID's integral gain: multiplier per unit of violation and
    round (thesis, where it is Adam's, which steps by it whatever the violation)."""

    proportional_gain: float = 1.0
    """The PID's answer to a violation while it lasts; ascent has none."""

    derivative_gain: float = 0.0
    """The PID's answer to a violation that grows; ascent has none."""

    violation_smoothing: float = 0.0
    """Decay of the moving average of violations that both these gains see, in [0, 1)."""

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

    Where the thesis gives a value (Table 5.3) the docstring says so; a default may differ from it,
    since the thesis's 40,000 timesteps with fine-tuning take a GPU.
    """

    strategy: Annotated[
        Literal["coarse", "fine"],
        tyro.conf.arg(aliases=["--strategy"]),
    ] = "coarse"
    """What an action says: coarse, how much of a layer goes, by magnitude; fine, which channels."""

    online: Annotated[bool, tyro.conf.arg(aliases=["--online"])] = False
    """Train the network from scratch together with the policy (thesis, section 4.5)."""

    iterations: int = 40
    """Rounds of episodes and learning. The thesis takes 40,000 timesteps, which are
    40,000 / (episodes * layers) rounds."""

    seconds: float | None = None
    """Stop after the round that passes this time, which makes results depend on the machine."""

    episodes: int = 32
    """Networks pruned in one round, as one batch."""

    reward: Literal["accuracy", "loss"] = "accuracy"
    """What the policy earns: the accuracy on the images of the search (thesis), or minus the loss
    (equation 2 of the paper)."""

    finetune_schedule: tuple[int, ...] = (0,)
    """Training steps of a pruned network before its reward, in equal intervals of the search; the
    thesis takes 0 32 128. Ignored with --online."""

    initial_action: float | None = None
    """The coarse policy's mean before learning, in (0, 1); by default the part that uniform pruning
    removes within the budgets. The thesis says nothing; its sigmoid would begin at 0.5."""

    initial_ratio: float | None = None
    """Largest part of a layer that a coarse action may remove at first; by default 0.9, or what the
    tightest budget removes if that is more. Thesis: 0.8 where 20 % may stay, 0.9 where 10 %."""

    ratio_rise: float = 0.05
    """What is added to it until the end (thesis: "action clip gradient", 0.05)."""

    online_steps: int = 32
    """Training steps of the network in each round, with --online."""

    validated: int = 4
    """Networks of each round that are scored on the validation images: its best within budget."""

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
        """The settings without those of the outer loop, so that changing these compiles nothing."""
        return replace(
            self,
            iterations=1,
            seconds=None,
            finetune_schedule=(0,),
            online_steps=1,
            initial_action=None,
            initial_ratio=None,
        )
