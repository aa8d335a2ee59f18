"""Ranges that the numbers among settings must lie in."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple


class Range(NamedTuple):
    """A set of finite numbers.

    Attributes:
        words: what a number must do to belong to it, after "must".
        holds: number -> whether it belongs, should it be finite; False for NaN.
    """

    words: str
    holds: Callable[[float], bool]


AT_LEAST_ONE = Range("be at least 1", lambda value: value >= 1)
POSITIVE = Range("be positive", lambda value: value > 0)
NOT_NEGATIVE = Range("not be negative", lambda value: value >= 0)
FINITE = Range("be a number", lambda value: value == value)
UNIT = Range("lie in [0, 1]", lambda value: 0 <= value <= 1)
UNIT_WITHOUT_0 = Range("lie in (0, 1]", lambda value: 0 < value <= 1)
UNIT_WITHOUT_1 = Range("lie in [0, 1)", lambda value: 0 <= value < 1)
INSIDE_UNIT = Range("lie in (0, 1)", lambda value: 0 < value < 1)


def require(settings: Any, wanted: Range, *names: str) -> None:
    """Refuses settings outside a range.

    Args:
        settings: an object with these attributes; one that is None is let through, of a tuple every
            entry counts.
        wanted: the range.
        names: of the attributes.

    Raises:
        TypeError: naming the first attribute that is no number.
        ValueError: naming the first attribute outside, the range and the value.
    """
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is None:
                continue
            if not isinstance(number, int | float):
                raise TypeError(f"{name} is {value!r}, but must be a number")
            if not wanted.holds(number):
                raise ValueError(f"{name} must {wanted.words}, not {value}")
            if math.isinf(number):
                raise ValueError(f"{name} must be finite, not {value}")


def require_one_of(settings: Any, name: str, known: tuple[str, ...]) -> None:
    """Refuses a setting that is none of the known words.

    Raises:
        ValueError: naming the attribute, the words and the value.
    """
    value = getattr(settings, name)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
