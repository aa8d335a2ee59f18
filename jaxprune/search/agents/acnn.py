"""ACNN: an agent, kept sparse itself, whose reward balances accuracy and size after every layer.

"Automatic Compression of Neural Network with Deep Reinforcement Learning Based on Proximal Gradient
Method" (Mathematics 2023, 11, 338): state [t, n, p, l_p], L1 order of the neurons, the reward of
eq. 3 after every layer's step, and an L1 penalty on actor and critic by proximal steps (eqs. 8 to
11); `--search.shrinkage 0` is its "ACNN without pro". The expected compression rate is the
budget's: `--cost neurons --budget 0.289` expects 1 / 0.289 = 3.46.

The paper publishes the learning rate, 0.001, and that rewards converge within about 100 iterations.
**All other numbers are this project's own.** Departures, each made for its effect on LeNet-300-100:

- Adam where the paper prints plain gradient steps.
- The replay buffer keeps 50 episodes, where Algorithm 1 clears it after each round, and a round
  learns from 32 mini-batches, where Algorithm 1 makes one pass. Learning only from the few and ever
  more similar steps of late rounds, the critic forgets the rest, and the actor drifts to a bound
  and stays there. `--search.replay None` clears it; `experiments/acnn_ablation.py` has both.
- AMC's moving average is subtracted from the rewards. Without it the critic first learns that
  everything is worth more than nothing, and the actor follows it to removing all or nothing.
- AMC's bound keeps every network within the budget, and the actor learns a tenth as fast as the
  critic (AMC's rates). `--search.unbounded --search.actor-rate 1e-3` is the paper's agent, which
  found slightly worse networks on MNIST and slightly better ones on the digits (two seeds each).
"""

from dataclasses import dataclass
from typing import Literal

from jaxprune.search.agents import ddpg
from jaxprune.search.agents.ddpg import State, finished, init, search, update
from jaxprune.search.agents.ddpg.config import Reward
from jaxprune.search.envs.observations import Kind

__all__ = ["Config", "State", "finished", "init", "search", "update"]


@dataclass(frozen=True)
class Config(ddpg.Config):
    """Settings of ACNN; what the paper gives is marked (ACNN)."""

    observation: Kind = "acnn"
    """The state: acnn (ACNN), amc or cacp, see `envs.observations`."""

    reward: Reward = "balance"
    """The reward: balance (ACNN), of accuracy and cost after every layer; error, minus the error of
    the finished network; error_log_macs and error_log_params, that times the logarithm of its
    multiply-adds or parameters."""

    unbounded: bool = False
    """Leave the budget to the reward (ACNN). By default a layer is pruned at least so far that
    later ones can still meet the budget, as in AMC: every network is within it."""

    max_ratio: float = 0.98
    """Largest fraction of a convolution's channels that an action removes."""

    iterations: int = 50
    """Rounds of episodes and learning."""

    warmup: int = 40
    """Episodes with uniformly random actions before the agent learns anything."""

    sigma_decay: float = 0.99
    """Decay of the exploration noise from one episode to the next."""

    replay: int | None = 50
    """Capacity of the replay buffer in episodes; None: those of one round (ACNN)."""

    updates: int | None = 32
    """Mini-batches per round; None: as many as its episodes have steps."""

    hidden: tuple[int, int] = (64, 64)
    """Widths of the hidden layers of actor and critic."""

    critic_rate: float = 1e-3
    """The critic's learning rate (ACNN)."""

    shrinkage: float = 0.1
    """Weight of the L1 norm of actor and critic: after each step every weight shrinks towards zero
    by this times the learning rate (ACNN, eqs. 10 and 11). 0: plain Adam, "ACNN without pro"."""

    gamma: float = 0.99
    """Discount factor."""

    tau: float = 0.3
    """Step size of the target networks towards the networks, once per round."""

    targets_move: Literal["update", "round"] = "round"
    """When they move: after every mini-batch, or once per round (ACNN, Algorithm 1)."""

    baseline_rate: float = 0.5
    """Step size of the moving average that is subtracted from rewards, in [0, 1]; 0: nothing is
    subtracted (ACNN)."""
