"""The interface of a figure module, and the types that all of them share.

A figure module has a header (claim, paper figure, command, time on 2 cores, expected numbers), a
frozen `Config` with presets `smoke()`, `laptop()` and `paper()`, and three functions:

- `run(config) -> Result` computes the arrays and numbers of the figure. A long `run` may be a
  generator: it yields the results that can be drawn before the rest is computed, and returns the
  complete one. `finished` accepts both forms.
- `check(result) -> list[Check]` tests the claim and its premises.
- `plot(result) -> Figure` draws from the result alone.

A figure that does not use crops of `n_pairs` images has a fourth function, `digest(config) -> str`,
which returns a hash of the images that it uses.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Relation = Literal["<=", ">=", "=="]


@dataclass(frozen=True)
class Check:
    """A measured value and its bound.

    A premise is a condition without which the claim means nothing.
    """

    name: str
    value: float
    bound: float
    relation: Relation
    premise: bool = False

    @property
    def passed(self) -> bool:
        """Whether `value <relation> bound` holds; False for NaN."""
        return {
            "<=": self.value <= self.bound,
            ">=": self.value >= self.bound,
            "==": self.value == self.bound,
        }[self.relation]

    def summary(self) -> dict[str, Any]:
        """Return the check as a dictionary for summary.json."""
        value = float(self.value) if np.isfinite(self.value) else None
        return {
            "name": self.name,
            "value": value,
            "bound": float(self.bound),
            "relation": self.relation,
            "passed": bool(self.passed),
            "premise": self.premise,
        }


@dataclass(frozen=True)
class Result:
    """Output of a figure's `run`: arrays to draw, and numbers (any JSON values) to report."""

    arrays: dict[str, np.ndarray]
    numbers: dict[str, Any] = field(default_factory=dict)


def finished(
    computed: Result | Generator[Result, None, Result], write: Callable[[Result], Any]
) -> Result:
    """Return the complete result of a figure's `run`.

    If `run` is a generator, each partial result is passed to `write` before the next is computed.
    """
    if isinstance(computed, Result):
        return computed
    while True:
        try:
            write(next(computed))
        except StopIteration as end:
            return end.value


Progress = Callable[[str], None]
"""Callback that receives a description of the next step of a computation."""


def silent(_: str) -> None:
    """Report no progress."""
