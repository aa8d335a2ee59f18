"""The settings of the MCTS agent."""

from dataclasses import dataclass
from typing import Literal

from jaxprune.search.agents.mcts.network import Head
from jaxprune.search.envs.blocks import LARGEST
from jaxprune.search.ranges import (
    AT_LEAST_ONE,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    UNIT,
    require,
    require_one_of,
)


@dataclass(frozen=True)
class Config:
    """Settings of the MCTS agent.

    The supplement names some of these quantities (`n_mcts`, `n_sim`, `L`, `n_s`, tau) but gives
    the value of none; **every default here is this project's own**.
    """

    iterations: int = 12
    """Most rounds of self-play, learning and greedy pruning."""

    patience: int = 10
    """Stop after this many rounds without a better greedy result (the paper's n_s)."""

    seconds: float | None = None
    """Stop after the round that passes this time, which makes results depend on the machine."""

    games: int = 8
    """Self-play games of one round, played as one batch (the paper's n_sim)."""

    simulations: int = 32
    """Tree-search simulations before each removal (the paper's n_mcts)."""

    tree_policy: Literal["puct", "gumbel"] = "puct"
    """How the tree is searched: PUCT, or Gumbel MuZero, which needs fewer simulations."""

    exploration: float = 1.25
    """Weight of the prior in the PUCT formula (c_puct)."""

    dirichlet_fraction: float = 0.25
    """Share of noise in the prior at the root of the tree."""

    dirichlet_concentration: float = 10.0
    """Sum of the noise's Dirichlet parameters over all legal removals."""

    temperature: float = 1.0
    """Removals are drawn from visits^(1/temperature); 0 takes the most visited (paper: tau)."""

    block: Literal["auto"] | int = "auto"
    """Filters of a group that are removed together, the least important first: auto, the same part
    of each group, so that a game takes about 64 removals; or a number. With 1, and with auto where
    a game has no more filters to remove, any single filter may go, as in the paper."""

    terminal: Literal["auto", "evaluate", "value"] = "auto"
    """Score of a finished network in the tree: its measured accuracy, the value head's guess, or
    auto: the guess where a candidate is so large that compiling for it alone pays."""

    evaluation_batch: int = 1
    """Finished networks of the tree that are evaluated together; more suits a GPU."""

    importance_prior: float = 1.0
    """How strongly unimportant filters are preferred before learning; 0 is the pure network."""

    baseline: float | None = None
    """First accuracy to beat (the paper's b); by default that of the better magnitude pruning."""

    queue_length: int = 4096
    """Positions kept for learning (the paper's L)."""

    width: int = 16
    """Feature maps of the policy/value network's first block; 64 is the paper's."""

    head: Head = "auto"
    """Policy head: dense as in the paper, per_filter for many filters, or chosen by size."""

    learning_rate: float = 3e-3
    """AdamW's learning rate."""

    weight_decay: float = 1e-4
    """AdamW's weight decay."""

    batch_size: int = 64
    """Positions of one learning step."""

    learning_steps: int = 128
    """AdamW steps of one round."""

    def __post_init__(self) -> None:
        require(
            self,
            AT_LEAST_ONE,
            "iterations",
            "patience",
            "games",
            "simulations",
            "evaluation_batch",
            "queue_length",
            "width",
            "batch_size",
            "learning_steps",
        )
        if self.queue_length < self.games:
            raise ValueError(
                f"queue_length must hold one position of each of the {self.games} games, "
                f"not {self.queue_length}"
            )
        require(self, POSITIVE, "dirichlet_concentration", "learning_rate")
        require(
            self,
            NOT_NEGATIVE,
            "seconds",
            "temperature",
            "importance_prior",
            "exploration",
            "weight_decay",
        )
        require(self, UNIT, "dirichlet_fraction")
        require(self, FINITE, "baseline")
        require_one_of(self, "tree_policy", ("puct", "gumbel"))
        require_one_of(self, "terminal", ("auto", "evaluate", "value"))
        if self.block != "auto" and not 1 <= self.block <= LARGEST:
            raise ValueError(f"block is {self.block}; it must be auto or from 1 to {LARGEST}")
        require_one_of(self, "head", ("auto", "dense", "per_filter"))
