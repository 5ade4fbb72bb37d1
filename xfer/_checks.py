"""Checks of the numbers that users give."""

import math
from numbers import Integral, Real
from typing import Any


def check_integer(name: str, value: Any, least: int = 1) -> int:
    """Return an integer of at least that size; refuse anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}, got {value!r}")
    return int(value)


def check_number(name: str, value: Any, least: float, below: float = math.inf) -> None:
    """Refuse what is not a number, >= `least` and < `below`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) < below:
        end = "" if below == math.inf else f" and < {below}"
        raise ValueError(f"{name} must be a number >= {least}{end}, got {value!r}")


def check_positive(name: str, value: Any, finite: bool = True) -> None:
    """Refuse what is not a positive number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    if finite and value == math.inf:
        raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_share(name: str, value: Any) -> None:
    """Refuse what is not a number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ValueError(f"{name} must be a number > 0 and < 1, got {value!r}")
