"""What every figure module keeps to, and the parts that they share.

A figure module has a header (claim, paper figure, command, time on 2 cores, expected numbers), a
frozen `Config` with presets `smoke()`, `laptop()` and `paper()`, and four functions:

- `run(config) -> Result` computes; the result is a dataclass of `arrays` and `numbers` and nothing
  else. A long one is a generator that yields what can be drawn before the rest and returns the
  whole; `finished` takes either.
- `check(result) -> list[Check]` asserts the claim and its premise.
- `plot(result) -> Figure` draws from the result alone.

One that does not look at crops of `n_pairs` images has a fifth, `digest(config) -> str`: what tells
its images from any others.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Relation = Literal["<=", ">=", "=="]


@dataclass(frozen=True)
class Check:
    """One gap with its bound; a premise is what has to hold for the claim to mean anything."""

    name: str
    value: float
    bound: float
    relation: Relation
    premise: bool = False

    @property
    def passed(self) -> bool:
        """Whether value <relation> bound; never for a value that is not a number."""
        return {
            "<=": self.value <= self.bound,
            ">=": self.value >= self.bound,
            "==": self.value == self.bound,
        }[self.relation]

    def summary(self) -> dict[str, Any]:
        """The check as summary.json has it."""
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
    """What a figure has computed: arrays to draw from, and numbers (anything JSON holds) to
    read."""

    arrays: dict[str, np.ndarray]
    numbers: dict[str, Any] = field(default_factory=dict)


def finished(
    computed: Result | Generator[Result, None, Result], write: Callable[[Result], Any]
) -> Result:
    """The whole result of a figure's `run`, each part handed to `write` before the next is
    computed.
    """
    if isinstance(computed, Result):
        return computed
    while True:
        try:
            write(next(computed))
        except StopIteration as end:
            return end.value


Progress = Callable[[str], None]
"""Called with what comes next."""


def silent(_: str) -> None:
    """No progress."""
