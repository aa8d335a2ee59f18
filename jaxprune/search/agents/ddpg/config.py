"""Settings of the DDPG agent, of which ACNN, AMC and CACP are particular choices."""

from dataclasses import dataclass, replace
from typing import Literal

from jaxprune.search.envs.observations import ENTRIES, Kind
from jaxprune.search.ranges import (
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    UNIT,
    UNIT_WITHOUT_0,
    require,
    require_one_of,
)

Reward = Literal["balance", "error", "error_log_macs", "error_log_params"]


@dataclass(frozen=True)
class Config:
    """Settings of the agent, by default those of AMC's published code where it has them.

    `jaxprune.search.agents.acnn`, `amc` and `cacp` have their own defaults.
    """

    observation: Kind = "amc"
    """The state: acnn, amc or cacp, see `jaxprune.search.envs.observations`."""

    reward: Reward = "error"
    """The reward: balance, ACNN's of accuracy and cost after every layer; error, minus the error of
    the finished network; error_log_macs and error_log_params, that times the logarithm of its
    multiply-adds or parameters (AMC's R_FLOPs and R_Param, meant for --search.unbounded)."""

    beta: float = 1.0
    """The weight of the cost in the reward balance."""

    expected_accuracy: float = 1.0
    """The accuracy above which balance pays no more, as a fraction of the dense network's."""

    unbounded: bool = False
    """Leave the budget to the reward. By default a layer is pruned at least so far that later ones
    can still meet the budget, AMC's budget-respecting action: every network is within it."""

    max_ratio: float = 0.8
    """Largest fraction of a convolution's channels that an action removes (AMC); if the budget
    cannot be met with it, what uniform pruning to the budget removes."""

    max_ratio_dense: float = 0.98
    """The same for dense layers and input features (AMC)."""

    targets: tuple[float, ...] = ()
    """Further budgets to play episodes for, as fractions of the dense cost; each episode draws one
    of them or the budget."""

    iterations: int = 100
    """Rounds of episodes and learning."""

    episodes: int = 8
    """Networks pruned per round, as one batch."""

    seconds: float | None = None
    """Stop after the round that exceeds this time; results then depend on the machine."""

    warmup: int = 100
    """Episodes with uniformly random actions before the agent learns anything."""

    sigma: float = 0.5
    """Standard deviation of the truncated normal noise in the first episode after the warm-up."""

    sigma_decay: float = 0.95
    """Its decay from one episode to the next."""

    replay: int | None = 100
    """Capacity of the replay buffer in episodes; None: those of one round."""

    updates: int | None = None
    """Mini-batches per round; None: as many as its episodes have steps."""

    batch: int = 64
    """Steps in a mini-batch."""

    hidden: tuple[int, int] = (300, 300)
    """Widths of the hidden layers of actor and critic."""

    actor_rate: float = 1e-4
    """The actor's learning rate (Adam)."""

    critic_rate: float = 1e-3
    """The critic's learning rate (Adam)."""

    shrinkage: float = 0.0
    """Weight of the L1 norm of actor and critic: after each step every weight shrinks towards zero
    by this times the learning rate (ACNN, eqs. 10 and 11). 0: plain Adam."""

    gamma: float = 1.0
    """Discount factor."""

    tau: float = 0.01
    """Step size of the target networks towards the networks."""

    targets_move: Literal["update", "round"] = "update"
    """When they move: after every mini-batch, or once per round (ACNN, Algorithm 1)."""

    baseline_rate: float = 0.5
    """Step size of the moving average that is subtracted from rewards, in [0, 1]; 0: nothing is
    subtracted."""

    validated: int = 4
    """Networks per round that are scored on the validation split: its best within the budget."""

    def __post_init__(self) -> None:
        require_one_of(self, "observation", tuple(ENTRIES))
        require_one_of(self, "reward", ("balance", "error", "error_log_macs", "error_log_params"))
        require_one_of(self, "targets_move", ("update", "round"))
        require(self, AT_LEAST_ONE, "iterations", "episodes", "batch", "validated", "updates")
        if self.replay is not None and self.replay < self.episodes:
            raise ValueError(
                f"replay must hold the {self.episodes} episodes of a round, not {self.replay}"
            )
        if len(self.hidden) != 2 or min(self.hidden) < 1:
            raise ValueError(f"hidden must be two widths of at least 1, not {self.hidden}")
        require(self, POSITIVE, "expected_accuracy", "sigma", "actor_rate", "critic_rate")
        require(self, NOT_NEGATIVE, "seconds", "warmup", "beta", "shrinkage")
        require(self, UNIT, "max_ratio", "max_ratio_dense", "gamma", "baseline_rate")
        require(self, UNIT_WITHOUT_0, "sigma_decay", "tau", "targets")

    def within_a_round(self) -> "Config":
        """The settings without those of the outer loop, changing which compiles nothing."""
        return replace(self, iterations=1, seconds=None)
