"""Monte-Carlo tree search: prune filter by filter, looking ahead.

After the supplement of "Channel Pruning via Lookahead Search Guided Reinforcement Learning"
(WACV 2022): its policy/value network (`network`), its tree search (`tree`) and its learning loop
(`agent`). The main text is not public to this project; `agent`, `features`, `tree` and `config` say
what is the supplement's and what is this project's own.
"""

from typing import TYPE_CHECKING

from jaxprune.lazy import submodules
from jaxprune.search.agents.mcts.agent import State, finished, init, search, update
from jaxprune.search.agents.mcts.config import Config
from jaxprune.search.agents.mcts.network import PolicyValueNetwork

__all__ = ["Config", "PolicyValueNetwork", "State", "finished", "init", "search", "update"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
