"""The methods of joint-embedding learning: one row a method, which everything else reads.

A row says what a method descends (a loss of `stepwise.losses`, its predictor, its target network,
the state that it carries), which law predicts it (`stepwise.laws`), with which views it was
published, and from which small start and with which schedule it is trained here. Training, figures,
colours, the command line and the tables of the documentation read `METHODS`; a method of your own
is one more row, in a file of your own (`find`).
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
    """What a training run descends.

    The loss is called as loss(z_1, ..., z_v), one embedding [n, d] a view, row i of all of them
    from image i. With a predictor or a target network it is called as
    loss(p_1, ..., p_v, z_1, ..., z_v): first the online network's predictions, then the embeddings
    that they are compared with, as `losses.byol`.

    Attributes:
        loss: such as `losses.vicreg`; a scalar, or (scalar, new state) if `state` is given.
        predictor: whether embeddings pass through a predictor before they meet the other view's.
        decay: of a target network, whose parameters are a running mean of the encoder's and whose
            embeddings are z_1 ... z_v; it rises to 1 as a cosine over the run, and it begins as a
            copy of the encoder, where Grill et al. draw it anew. None: no target.
        views: how many views each image has; the loss decides what each is for.
        state: a function of d that gives the loss's first state, a tree of arrays that no gradient
            reaches (a running centre). The loss is then called with `state=` and returns the next.
        parameters: a function of d that gives the loss's own parameters, a tree of arrays that the
            optimiser trains (a temperature). The loss is then called with `parameters=`.
    """

    loss: Callable[..., Any]
    predictor: bool = False
    decay: float | None = None
    views: int = 2
    state: Callable[[int], Any] | None = None
    parameters: Callable[[int], Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what no training could use."""
        for name in ("loss", "state", "parameters"):
            value = getattr(self, name)
            fits = callable(value) or (value is None and name != "loss")
            _check.require(fits, f"Objective.{name}", "a function", repr(value))
        _check.whole("Objective.views", self.views, 2)


OCCASIONS = ("small", "standard", "small, tiny", "standard, tiny")
"""Which start, and whether on the smoke preset's tiny network."""


@dataclass(frozen=True)
class Schedule:
    """How a method is trained.

    Attributes:
        lr: learning rate of SGD with momentum 0.9, batches of 64 pairs.
        steps: how many steps to take.
        warmup: steps of linear warm-up.
        cosine: whether the rate then falls to a thousandth as a cosine.
    """

    lr: float
    steps: int
    warmup: int = 0
    cosine: bool = False


@dataclass(frozen=True)
class Start:
    """A start from which a method learns one mode after another.

    Attributes:
        scale: factor on the starting weights of the head's last layer (`models.scale_start`).
        offset: norm of the head's bias, for a loss that is blind to scale (`models.offset_start`).
    """

    scale: float = 1e-3
    offset: float = 0.0


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: how code and command line call it.
        title: how text and figures call it.
        paper: where it was published.
        objective: what it descends.
        collapse: the loss at full collapse, every embedding the same vector of norm 1, as a
            function of (n, d); None if no closed form is known.
        law: the law that predicts its modes, a function of (problem, d), and None without one.
        law_loss: the call of `stepwise.losses` of which that law is exact; by default the loss.
        recipe: a name in `views.RECIPES`, the views that it was published with.
        start: its small start.
        schedules: how it is trained, by occasion: "small" from the small start and "standard" from
            a standard one on the laptop preset's network, "small, tiny" and "standard, tiny" on the
            smoke preset's.
        colour, marker: of its curves.
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
        """Refuse a row whose parts are of another kind."""
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
        """The fields of a `training.Config` that the row decides: start and schedule.

        Without a schedule for this occasion, only the start.
        """
        _check.require(occasion in OCCASIONS, "occasion", f"one of {OCCASIONS}", repr(occasion))
        small = occasion.startswith("small")
        start = {"start_scale": self.start.scale, "offset": self.start.offset}
        found = start if small else {"start_scale": 1.0, "offset": 0.0}
        schedule = self.schedules.get(occasion)
        return found | ({} if schedule is None else dict(vars(schedule)))

    def require_law(self) -> Callable[[Any, Whole], Any]:
        """The law, or a refusal that names the methods with one."""
        if self.law is None:
            known = ", ".join(name for name, row in METHODS.items() if row.law is not None)
            expected = f"a method with a law ({known})"
            raise ValueError(f"method: expected {expected}, received {self.name!r}, which has none")
        return self.law


def _collapsed_nt_xent(n: int, d: int) -> float:
    """2 ln(2n − 1): NT-Xent of embeddings that are all the same."""
    return 2 * math.log(2 * n - 1)


BARLOW_TWINS = "Zbontar et al., Barlow Twins, ICML 2021 (arXiv 2103.03230)"

DEFAULT = "barlow_twins_unnormalised"
"""The row that is taken if none is named: the form of Barlow Twins that the theory solves."""

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
                # The official loss is blind to scale: a head that grows slows itself down, and a
                # larger rate makes the first modes larger, the later ones no sooner. At 0.05, with
                # seed 0, two of the first overlap.
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
                # Blind to scale, it starts near one vector. Around one of norm 1 the head alone
                # learns, since small differences suffice, and the backbone hardly moves. Its
                # eigenvalues grow at 8γ/(temperature · offset²).
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
                # It leaves zero at 5000σ/d while the standard deviation is below 0.01, and then
                # slows down: hence the long warm-up.
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
"""Every method by its name."""


def find(name: str) -> Method:
    """The row of a name, or of FILE.py:NAME, a `Method` that a file of your own defines.

    Raises:
        ValueError: there is no such row; the file is missing, fails, or has no `Method` of that
            name.
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
    """Return what a call returns that runs the loss or the law of this method; what code of the
    user's own raises becomes one line that names the place.
    """
    if (name or DEFAULT) in METHODS:
        return call()
    own = (ValueError, OSError, MemoryError, ImportError)
    return run_user_code(name, "a loss and a law that run", call, passed_on=own)


def identity(name: str) -> str:
    """What tells a method from others in the identity of a run: its name, and for a file's method
    also the content of the file and of what it imports from its own folder. Data that it reads is
    not seen.
    """
    row = find(name)
    if row is METHODS.get(row.name):
        return row.name
    file, _, variable = name.rpartition(":")
    return f"{variable} of {_own_code(Path(file))}"


def _own_code(path: Path) -> str:
    """A hash of the contents of a file and of all that it imports from its own folder."""
    try:
        files = sorted(_files.imported_files(path, path.resolve().parent, None))
    except (SyntaxError, ValueError):  # running it says what is wrong with it
        files = [path]
    return _files.digest(*(file.read_bytes() for file in files))


@lru_cache(maxsize=32)
def _from_file(name: str, path: str, _digest: str) -> Method:
    # as `python FILE.py` does: it may import what lies beside it
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
