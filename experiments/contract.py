"""What every figure module keeps to, and the parts that they share.

A figure module has a header (claim, paper figure, command, time on 2 cores, expected numbers), a frozen `Config` with
presets `smoke()`, `laptop()` and `paper()`, and four functions:

- `run(config) -> Result` computes; the result is a dataclass of `arrays` and `numbers` and nothing else.
- `check(result) -> list[Check]` asserts the claim and its premise.
- `plot(result) -> Figure` draws from the result alone.
"""

from collections.abc import Callable
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
    """What a figure has computed: arrays to draw from, and numbers (anything JSON holds) to read."""

    arrays: dict[str, np.ndarray]
    numbers: dict[str, Any] = field(default_factory=dict)


Progress = Callable[[str], None]
"""Called with what comes next."""


def silent(_: str) -> None:
    """No progress."""
