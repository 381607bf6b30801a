"""The row of a method: its objective, start and schedules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from stepwise import _check
from stepwise.types import Whole


@dataclass(frozen=True)
class Objective:
    """The objective that a training run minimises.

    The loss is called as loss(z_1, ..., z_v), with one array of embeddings [n, d] for each view;
    row i of every array belongs to image i. With a predictor or a target network it is called as
    loss(p_1, ..., p_v, z_1, ..., z_v): first the online network's predictions, then the embeddings
    with which they are compared, as in `losses.byol`. If the views come from a `views.MultiCrop`,
    it also receives `local=`, the online outputs of each local crop.

    Attributes:
        loss: a function such as `losses.vicreg`. It returns a scalar, or (scalar, new state) if
            there is a `state`.
        predictor: whether the online embeddings pass through a predictor.
        decay: decay rate of a target network; None for no target network. The target's parameters
            are a running mean of the encoder's, and its embeddings are z_1 ... z_v. The rate rises
            to 1 along a cosine over the run. The target starts as a copy of the encoder, whereas
            Grill et al. (2020) initialise it at random.
        views: number of views of each image.
        state: a function of d that returns the first state of the loss, a tree of arrays that
            receives no gradient (for instance a running centre). The loss is then called with
            `state=` and also returns the next state.
        parameters: a function of d that returns the parameters of the loss, a tree of arrays that
            the optimiser trains (for instance a temperature). The loss is then called with
            `parameters=`.
        project: a function of these parameters that is applied after each step, and returns them
            within their bounds.

    Raises:
        ValueError: if a function is not callable, `views` is not a whole number from 2, or there is
            a `project` without `parameters`.
    """

    loss: Callable[..., Any]
    predictor: bool = False
    decay: float | None = None
    views: int = 2
    state: Callable[[int], Any] | None = None
    parameters: Callable[[int], Any] | None = None
    project: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        """Check the kinds of the fields."""
        for name in ("loss", "state", "parameters", "project"):
            value = getattr(self, name)
            fits = callable(value) or (value is None and name != "loss")
            _check.require(fits, f"Objective.{name}", "a function", repr(value))
        _check.whole("Objective.views", self.views, 2)
        fits = self.project is None or self.parameters is not None
        _check.require(fits, "Objective.project", "None without parameters", repr(self.project))


OCCASIONS = ("small", "standard", "small, tiny", "standard, tiny")
"""Occasions of a schedule: a small or standard start; "tiny" is for the smoke preset's network."""


@dataclass(frozen=True)
class Schedule:
    """The schedule with which a method is trained.

    Attributes:
        lr: learning rate, for SGD with momentum 0.9 and batches of 64 pairs.
        steps: number of training steps.
        warmup: number of steps of linear warm-up.
        cosine: whether the learning rate falls to a thousandth along a cosine after the warm-up.
        temperature: temperature of the loss, if it is not the loss's default.
        loss_options: other arguments of the loss that are not its defaults, by name.
    """

    lr: float
    steps: int
    warmup: int = 0
    cosine: bool = False
    temperature: float | None = None
    loss_options: dict[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Start:
    """A small start, from which a method learns one mode after another.

    Attributes:
        scale: factor on the starting weights of the head's last layer (`models.scale_start`).
        offset: norm of the head's bias, for a loss that ignores the scale of its embeddings
            (`models.offset_start`); 0 for other losses.
    """

    scale: float = 1e-3
    offset: float = 0.0


@dataclass(frozen=True)
class Level:
    """A known value of a loss: where it is flat, and why.

    Attributes:
        name: of the state of the embedding, in a few words.
        value: the loss there.
        meaning: what the state is, one clause.
        advice: what to change, one sentence.
        learned: number of modes that are learned there; None if the level does not count modes.
    """

    name: str
    value: float
    meaning: str
    advice: str
    learned: int | None = None


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: name in code and on the command line.
        title: name in text and figures.
        paper: reference of the paper that introduced it.
        objective: the objective that it minimises.
        recipe: a name in `views.RECIPES`: the views that it was published with.
        collapse: the loss at full collapse, when every embedding is the same vector of norm
            `collapse_norm`, as a function of (n, d); None if no closed form is known.
        collapse_is_least: whether no embedding has a smaller loss, so that only the predictor or
            the stopped gradient keeps training from collapse.
        levels: the other known levels of the loss, as a function of (n, d, eigenvalues of the
            uncentred C [d], or None if they are not known); None if no others are known.
        collapse_norm: 1, or 0 for a loss whose value depends on the vector of norm 1.
        law: the law that predicts its modes, a function of (problem, d); None if there is no law.
        law_loss: the loss of `stepwise.losses` for which the law is exact; by default, the loss of
            the objective.
        law_of_run: the law with the settings of a training run, a function of (problem, config:
            `training.Config`); by default, `law`.
        start: its small start.
        small: other fields of `training.Config` that go with the small start, such as the form of
            the loss of which the law is exact.
        schedules: its schedule by occasion (`OCCASIONS`): "small" from the small start and
            "standard" from a standard start, both with the laptop preset's network; "small, tiny"
            and "standard, tiny" with the smoke preset's.
        in_paper: whether it is one of the methods of the paper's figures, which the figures of
            several methods train by default.
        colour, marker: colour and marker of its curves in figures.

    Raises:
        ValueError: if a field is of another kind, or an occasion is unknown.
    """

    name: str
    title: str
    paper: str
    objective: Objective
    recipe: str = "small"
    collapse: Callable[[int, int], float] | None = None
    collapse_norm: float = 1.0
    collapse_is_least: bool = False
    levels: Callable[[int, int, Any], Sequence[Level]] | None = None
    law: Callable[[Any, Whole], Any] | None = None
    law_loss: Callable[..., Any] | None = None
    law_of_run: Callable[[Any, Any], Any] | None = None
    start: Start = field(default_factory=Start)
    small: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    schedules: Mapping[str, Schedule] = field(default_factory=lambda: MappingProxyType({}))
    in_paper: bool = False
    colour: str = "#222222"
    marker: str = "o"

    def __post_init__(self) -> None:
        """Check the kinds of the fields."""
        fits = isinstance(self.objective, Objective)
        _check.require(fits, "Method.objective", "a methods.Objective", repr(self.objective))
        _check.require(self.law is None or callable(self.law), "Method.law", "a function", self.law)
        for occasion, schedule in self.schedules.items():
            _check.require(
                occasion in OCCASIONS, "Method.schedules", f"keys of {OCCASIONS}", occasion
            )
            fits = isinstance(schedule, Schedule)
            _check.require(fits, f"schedules[{occasion!r}]", "a methods.Schedule", repr(schedule))

    def settings(self, occasion: str = "small") -> dict[str, Any]:
        """Return the fields of a `training.Config` that the row sets for a start and its schedule.

        If the row has no schedule for this occasion, only the start is returned.

        Raises:
            ValueError: if the occasion is not one of `OCCASIONS`.
        """
        _check.require(occasion in OCCASIONS, "occasion", f"one of {OCCASIONS}", repr(occasion))
        small = occasion.startswith("small")
        small_start = {"start_scale": self.start.scale, "offset": self.start.offset, **self.small}
        start = small_start if small else {"start_scale": 1.0, "offset": 0.0}
        schedule = self.schedules.get(occasion)
        return start | ({} if schedule is None else dict(vars(schedule)))

    def require_law(self) -> Callable[[Any, Whole], Any]:
        """Return the law.

        Raises:
            ValueError: if the method has no law; the message names the methods that have one.
        """
        from stepwise.methods.table import METHODS  # here, because the table imports this module

        if self.law is None:
            names = ", ".join(name for name, row in METHODS.items() if row.law is not None)
            expected = f"a method with a law ({names})"
            raise ValueError(f"method: expected {expected}, received {self.name!r}, which has none")
        return self.law
