"""What is known before a search: what each cost can come to, and how long the search will take."""

import io
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from jaxprune.commands.report.wording import amount, cost_name, duration
from jaxprune.costs.outlook import Outlook

COLUMNS = ("dense", "uniform", "least", "budget")


def table(rows: Sequence[Outlook]) -> Table:
    """What each cost can come to, for a terminal; a column that nothing is known of is left out."""
    columns = [name for name in COLUMNS if any(getattr(row, name) is not None for row in rows)]
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("cost", no_wrap=True)
    for name in columns:
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        unit = f" ({row.unit})" if row.unit not in ("", cost_name(row.cost)) else ""
        shown.add_row(
            cost_name(row.cost) + unit, *(cell(getattr(row, name), row.dense) for name in columns)
        )
    return shown


def text(rows: Sequence[Outlook]) -> str:
    """The same as plain lines."""
    written = io.StringIO()
    Console(width=100, file=written).print(table(rows))
    return "\n".join(line.rstrip() for line in written.getvalue().rstrip().splitlines())


def cell(value: float | None, dense: float) -> str:
    """A cost, and what part of the dense network's it is."""
    if value is None:
        return ""
    number = amount(round(value) if value >= 1000 else value)
    return number if value == dense else f"{number} {value / dense:6.1%}"


class Pace:
    """How long a search will take, from the time that its first rounds took.

    Attributes:
        estimate: seconds of the whole search; None before the first round and where the method does
            not say how much it plans.
    """

    def __init__(
        self,
        planned: int | None,
        limit: float | None,
        seconds: Callable[[], float],
        say: Callable[[str], None],
    ) -> None:
        """A search begins or goes on.

        Args:
            planned: Rounds or candidates that the method plans; None where it does not say.
            limit: Seconds after which the method stops.
            seconds: What the search has taken so far.
            say: Where a person is told.
        """
        self._planned, self._limit, self._seconds, self._say = planned, limit, seconds, say
        self._rounds, self._last = 0, seconds()
        self.estimate: float | None = None

    def round(self, done: int, iteration: int) -> None:
        """A round is over.

        Args:
            done: What is done of the plan.
            iteration: Rounds so far, those before an interruption included.
        """
        now = self._seconds()
        took, self._last = now - self._last, now
        self._rounds += 1
        if self._planned is None or self._rounds > 2:
            return
        left = max(self._planned - done, 0) * iteration / done
        before, self.estimate = self.estimate, now + took * left
        if self._limit is not None:
            self.estimate = min(self.estimate, self._limit)
        if before is None:
            self._say(
                f"search: the first round took {duration(took)}, compiling included; at most about "
                f"{duration(self.estimate)} in all"
            )
        elif self.estimate < 0.8 * before and before - self.estimate > 5:
            self._say(
                f"search: the second round took {duration(took)}; about {duration(self.estimate)} "
                "in all"
            )
