"""The methods of joint-embedding learning: a table with one row for each method.

A row holds the training objective of a method (its loss, predictor, target network, and the state
of its loss), the law that predicts it (`stepwise.laws`), the views that it was published with, and
the small start and schedule with which it is trained here. Training, figures, the command line and
the documentation all read this table, `METHODS`. To add a method, write one more `Method` in a file
of your own (`find`).
"""

import math
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stepwise import _check, _files, laws, losses
from stepwise._user import run_user_code
from stepwise.types import Whole


@dataclass(frozen=True)
class Objective:
    """The objective that a training run minimises.

    The loss is called as loss(z_1, ..., z_v), with one array of embeddings [n, d] for each view;
    row i of every array belongs to image i. With a predictor or a target network it is called as
    loss(p_1, ..., p_v, z_1, ..., z_v): first the online network's predictions, then the embeddings
    with which they are compared, as in `losses.byol`.

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

    Raises:
        ValueError: if a function is not callable, or `views` is not a whole number from 2.
    """

    loss: Callable[..., Any]
    predictor: bool = False
    decay: float | None = None
    views: int = 2
    state: Callable[[int], Any] | None = None
    parameters: Callable[[int], Any] | None = None

    def __post_init__(self) -> None:
        """Check the kinds of the fields."""
        for name in ("loss", "state", "parameters"):
            value = getattr(self, name)
            fits = callable(value) or (value is None and name != "loss")
            _check.require(fits, f"Objective.{name}", "a function", repr(value))
        _check.whole("Objective.views", self.views, 2)


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
    """

    lr: float
    steps: int
    warmup: int = 0
    cosine: bool = False


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
class Method:
    """One row of the table.

    Attributes:
        name: name in code and on the command line.
        title: name in text and figures.
        paper: reference of the paper that introduced it.
        objective: the objective that it minimises.
        recipe: a name in `views.RECIPES`: the views that it was published with.
        collapse: the loss at full collapse, when every embedding is the same vector of norm 1, as a
            function of (n, d); None if no closed form is known.
        law: the law that predicts its modes, a function of (problem, d); None if there is no law.
        law_loss: the loss of `stepwise.losses` for which the law is exact; by default, the loss of
            the objective.
        start: its small start.
        schedules: its schedule by occasion (`OCCASIONS`): "small" from the small start and
            "standard" from a standard start, both with the laptop preset's network; "small, tiny"
            and "standard, tiny" with the smoke preset's.
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
    law: Callable[[Any, Whole], Any] | None = None
    law_loss: Callable[..., Any] | None = None
    start: Start = field(default_factory=Start)
    schedules: Mapping[str, Schedule] = field(default_factory=lambda: MappingProxyType({}))
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
        """Return the fields of a `training.Config` that the row sets: start and schedule.

        If the row has no schedule for this occasion, only the start is returned.

        Raises:
            ValueError: if the occasion is not one of `OCCASIONS`.
        """
        _check.require(occasion in OCCASIONS, "occasion", f"one of {OCCASIONS}", repr(occasion))
        small = occasion.startswith("small")
        small_start = {"start_scale": self.start.scale, "offset": self.start.offset}
        start = small_start if small else {"start_scale": 1.0, "offset": 0.0}
        schedule = self.schedules.get(occasion)
        return start | ({} if schedule is None else dict(vars(schedule)))

    def require_law(self) -> Callable[[Any, Whole], Any]:
        """Return the law.

        Raises:
            ValueError: if the method has no law; the message names the methods that have one.
        """
        if self.law is None:
            names = ", ".join(name for name, row in METHODS.items() if row.law is not None)
            expected = f"a method with a law ({names})"
            raise ValueError(f"method: expected {expected}, received {self.name!r}, which has none")
        return self.law


def _collapsed_nt_xent(n: int, d: int) -> float:
    """Return 2 ln(2n − 1), the NT-Xent loss of embeddings that are all the same."""
    return 2 * math.log(2 * n - 1)


BARLOW_TWINS = "Zbontar et al., Barlow Twins, ICML 2021 (arXiv 2103.03230)"

DEFAULT = "barlow_twins_unnormalised"
"""The name of the default method, the form of Barlow Twins that the theory solves."""

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        row.name: row
        for row in (
            Method(
                name="barlow_twins_unnormalised",
                title="Barlow Twins, theory's form",
                paper="Simon et al., On the Stepwise Nature of SSL, ICML 2023 (arXiv 2303.15438)",
                objective=Objective(losses.barlow_twins_unnormalised),
                collapse=lambda n, d: float(d),
                law=laws.DEFAULT,
                recipe="barlow_twins",
                start=Start(scale=1e-3),
                schedules={
                    "small": Schedule(lr=0.004, steps=2200),
                    "small, tiny": Schedule(lr=0.02, steps=300),
                },
                colour="#0072B2",
                marker="o",
            ),
            Method(
                name="barlow_twins",
                title="Barlow Twins",
                paper=BARLOW_TWINS,
                objective=Objective(losses.barlow_twins),
                collapse=lambda n, d: float(d),
                recipe="barlow_twins",
                # The official loss ignores the scale of embeddings, so a growing head slows its own
                # learning. A larger rate makes the first modes larger, but the later ones no
                # sooner. At rate 0.05 with seed 0, two of the first modes overlap.
                schedules={
                    "standard": Schedule(lr=0.2, steps=3600, warmup=100),
                    "standard, tiny": Schedule(lr=0.02, steps=300),
                },
                colour="#0072B2",
                marker="o",
            ),
            Method(
                name="simclr",
                title="SimCLR",
                paper="Chen et al., SimCLR, ICML 2020 (arXiv 2002.05709)",
                objective=Objective(losses.simclr),
                collapse=_collapsed_nt_xent,
                recipe="simclr",
                # The loss ignores the scale of embeddings, so they start near one vector, the
                # offset. If its norm is 1, small differences suffice: the head learns alone and the
                # backbone hardly changes. Eigenvalues grow at 8γ/(temperature · offset²).
                start=Start(scale=1e-3, offset=3.0),
                schedules={
                    "small": Schedule(lr=0.0036, steps=2500),
                    "small, tiny": Schedule(lr=0.018, steps=300),
                    "standard": Schedule(lr=0.004, steps=1000, warmup=100),
                    "standard, tiny": Schedule(lr=0.018, steps=300),
                },
                colour="#D55E00",
                marker="s",
            ),
            Method(
                name="vicreg",
                title="VICReg",
                paper="Bardes et al., VICReg, ICLR 2022 (arXiv 2105.04906)",
                objective=Objective(losses.vicreg),
                collapse=lambda n, d: 24.75,
                recipe="vicreg",
                # Modes leave zero at rate 5000σ/d while the standard deviation is below 0.01, and
                # grow more slowly afterwards. The warm-up is long for this reason.
                start=Start(scale=1e-4),
                schedules={
                    "small": Schedule(lr=0.05, steps=3000, warmup=1000, cosine=True),
                    "small, tiny": Schedule(lr=0.01, steps=500, warmup=100, cosine=True),
                    "standard": Schedule(lr=0.05, steps=3000, warmup=1000, cosine=True),
                    "standard, tiny": Schedule(lr=0.01, steps=500, warmup=100, cosine=True),
                },
                colour="#009E73",
                marker="D",
            ),
            Method(
                name="spectral_contrastive",
                title="spectral contrastive",
                paper="HaoChen et al., Spectral Contrastive Loss, NeurIPS 2021 (arXiv 2106.04156)",
                objective=Objective(losses.spectral_contrastive),
                collapse=lambda n, d: -1.0,
                recipe="spectral",
                colour="#CC79A7",
                marker="^",
            ),
            Method(
                name="byol",
                title="BYOL",
                paper="Grill et al., BYOL, NeurIPS 2020 (arXiv 2006.07733)",
                objective=Objective(losses.byol, predictor=True, decay=0.996),
                collapse=lambda n, d: 0.0,
                recipe="byol",
                colour="#E69F00",
                marker="v",
            ),
            Method(
                name="simsiam",
                title="SimSiam",
                paper="Chen and He, SimSiam, CVPR 2021 (arXiv 2011.10566)",
                objective=Objective(losses.simsiam, predictor=True),
                collapse=lambda n, d: -1.0,
                recipe="simsiam",
                colour="#56B4E9",
                marker="P",
            ),
        )
    }
)
"""All methods, by name."""


def find(name: str) -> Method:
    """Return the method of a name.

    Args:
        name: a name in `METHODS`, or FILE.py:NAME for a `Method` that a file of your own defines;
            if empty, `DEFAULT`.

    Raises:
        ValueError: if the name is unknown; or the file is missing, fails when it is run, or defines
            no `Method` of that name.
    """
    name = name or DEFAULT
    if name in METHODS:
        return METHODS[name]
    file, colon, variable = name.rpartition(":")
    expected = f"one of {', '.join(METHODS)}, or FILE.py:NAME"
    _check.require(bool(file and colon and variable), "method", expected, repr(name))
    path = Path(file)
    _check.require(path.is_file(), "method", "FILE.py:NAME with a file that exists", repr(name))
    return _from_file(name, str(path.resolve()), _own_code(path))


def run_with(name: str, call: Callable[[], Any]) -> Any:
    """Return the result of a call that runs the loss or the law of a method.

    Args:
        name: the method's name, as in `find`.
        call: a function without arguments.

    Raises:
        ValueError: if the method comes from a file of the user's own, and the call raises an error
            other than ValueError, OSError, MemoryError or ImportError; the message is one line
            that names the error and its line in the file.
    """
    if (name or DEFAULT) in METHODS:
        return call()
    expected_errors = (ValueError, OSError, MemoryError, ImportError)
    return run_user_code(name, "a loss and a law that run", call, passed_on=expected_errors)


def identity(name: str) -> str:
    """Return the text that identifies a method in the fingerprint of a run.

    For a method in `METHODS` it is the name. For a method in a file it also has a hash of the file
    and of the modules that it imports from its own folder. Data that the file reads do not enter.

    Raises:
        ValueError: as in `find`.
    """
    row = find(name)
    if row is METHODS.get(row.name):
        return row.name
    file, _, variable = name.rpartition(":")
    return f"{variable} of {_own_code(Path(file))}"


def _own_code(path: Path) -> str:
    """Return a hash of a file and of the modules that it imports from its own folder."""
    try:
        files = sorted(_files.imported_files(path, path.resolve().parent, None))
    except (SyntaxError, ValueError):  # running the file raises a clearer error later
        files = [path]
    return _files.digest(*(file.read_bytes() for file in files))


@lru_cache(maxsize=32)
def _from_file(name: str, path: str, _digest: str) -> Method:
    # as `python FILE.py` does, so that the file can import modules from its own folder
    sys.path.insert(0, str(Path(path).parent))
    try:
        variables = run_user_code(name, "a file that runs", lambda: runpy.run_path(path))
    finally:
        sys.path.remove(str(Path(path).parent))
    row = variables.get(name.rpartition(":")[2])
    received = "nothing of that name" if row is None else f"a {type(row).__name__}"
    _check.require(isinstance(row, Method), name, "a stepwise.methods.Method", received)
    assert isinstance(row, Method)
    return row
