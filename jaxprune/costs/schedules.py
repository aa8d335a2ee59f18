"""How much of a cost may remain after each of several rounds of pruning."""

from collections.abc import Callable

from jaxprune.errors import UserError

SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "geometric": lambda limit, done: limit**done,
    "linear": lambda limit, done: 1 - (1 - limit) * done,
    "cubic": lambda limit, done: 1 - (1 - limit) * (1 - (1 - done) ** 3),
}
"""{name: (what may remain at the end, the part of the rounds that is done) -> what may remain}."""


def shares(limit: float, rounds: int, schedule: str = "geometric") -> list[float]:
    """The budget of each round, as fractions of the dense network's cost.

    - "geometric": every round leaves the same fraction of what the one before it left (Han et al.,
      NIPS 2015; Frankle and Carbin, ICLR 2019, who take 80 % each time).
    - "linear": every round takes the same amount, as the iterative pruners of Torch-Pruning do.
    - "cubic": the first rounds take most (Zhu and Gupta, arXiv 1710.01878, equation 1).

    ::

        for share in jaxprune.costs.shares(0.25, rounds=4):
            ...  # prune to this share of the dense network's cost, then fine-tune

    Args:
      limit: what may remain after the last round, in (0, 1].
      rounds: how many there are, 1 or more.
      schedule: one of `SCHEDULES`.

    Returns:
      Fractions that fall to exactly `limit`, one a round.

    Raises:
      UserError: an argument is out of range.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"unknown schedule {schedule!r}; the schedules are: {', '.join(SCHEDULES)}")
    if not 0 < limit <= 1:
        raise UserError(f"limit {limit:g} is outside (0, 1]; it is the fraction of cost to keep")
    if rounds < 1:
        raise UserError(f"rounds {rounds} is too small; it must be at least 1")
    after = SCHEDULES[schedule]
    return [*(after(limit, number / rounds) for number in range(1, rounds)), limit]
