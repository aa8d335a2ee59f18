"""The settings of the DDPG agent; ACNN, AMC and CACP are choices of them."""

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
    """Settings of the agent. The defaults are those of AMC's published code where it has them.

    Three modules have their own: `jaxprune.search.agents.acnn`, `amc` and `cacp`.
    """

    observation: Kind = "amc"
    """What is seen of a layer: acnn, amc or cacp, see `jaxprune.search.envs.observations`."""

    reward: Reward = "error"
    """What is earned: balance, ACNN's of accuracy and cost after every layer; error, minus the
    error of the finished network; error_log_macs and error_log_params, that times the logarithm of
    its multiply-adds or parameters (AMC's R_FLOPs and R_Param, meant for --search.unbounded)."""

    beta: float = 1.0
    """The weight of the cost in the reward balance."""

    expected_accuracy: float = 1.0
    """The accuracy beyond which balance pays no more, as a part of the dense network's."""

    unbounded: bool = False
    """Leave it to the reward to hold the budget. By default a layer is pruned at least so far that
    later ones can still meet it, AMC's budget-respecting action: every network is within it."""

    max_ratio: float = 0.8
    """Largest part of a convolution's channels that an action removes (AMC). If the budget cannot
    be met so, it is what uniform pruning to the budget removes."""

    max_ratio_dense: float = 0.98
    """The same for a dense layer and for input features (AMC)."""

    targets: tuple[float, ...] = ()
    """Costs, as parts of the dense network's, that episodes are played for besides the budget; each
    episode draws one of them or the budget."""

    iterations: int = 100
    """Rounds of episodes and learning."""

    episodes: int = 8
    """Networks pruned in one round, as one batch."""

    seconds: float | None = None
    """Stop after the round that passes this time, which makes results depend on the machine."""

    warmup: int = 100
    """Episodes with uniformly random actions before the agent learns anything."""

    sigma: float = 0.5
    """Deviation of the truncated normal that explores, in the first episode after these."""

    sigma_decay: float = 0.95
    """Its factor from one episode to the next."""

    replay: int | None = 100
    """Episodes that the replay buffer keeps; None: those of one round."""

    updates: int | None = None
    """Minibatches of one round; None: as many as its episodes have steps."""

    batch: int = 64
    """Steps of one minibatch."""

    hidden: tuple[int, int] = (300, 300)
    """Widths of the hidden layers of actor and critic."""

    actor_rate: float = 1e-4
    """The actor's learning rate (Adam)."""

    critic_rate: float = 1e-3
    """The critic's learning rate (Adam)."""

    shrinkage: float = 0.0
    """Weight of the L1 norm of actor and critic: after each step every weight is moved towards zero
    by this times the learning rate (ACNN, eqs. 10 and 11). 0: plain Adam."""

    gamma: float = 1.0
    """Discount of what later layers earn."""

    tau: float = 0.01
    """How far the target networks move to the networks."""

    targets_move: Literal["update", "round"] = "update"
    """When they move: after every minibatch, or once a round (ACNN, Algorithm 1)."""

    baseline_rate: float = 0.5
    """How fast the moving average that comes off the rewards follows those of each minibatch, in
    [0, 1]; 0: nothing comes off."""

    validated: int = 4
    """Networks of each round that are scored on the validation images: its best within budget."""

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
        """The settings without those of the outer loop, so that changing these compiles nothing."""
        return replace(self, iterations=1, seconds=None)
