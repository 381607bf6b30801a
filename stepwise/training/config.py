"""Every knob of a training run, and the refusal of what no run could use. Needs no JAX."""

import math
from dataclasses import dataclass
from inspect import signature
from typing import Any, Literal


@dataclass(frozen=True)
class Config:
    """Every knob of a training run; the defaults are those of a small ResNet that two cores train
    in minutes.
    """

    data: str = "photos"
    """photos, cifar10, stl10, folder:PATH or npz:PATH."""
    data_dir: str | None = None
    """Where cifar10 or stl10 lie."""
    split: str = "train"
    n_images: int = 4096
    side: int = 32
    """Images are brought to this side before views are made of them."""
    recipe: str = "small"
    """Of the views, a name in `views.RECIPES`."""
    method: str = ""
    """A name in `methods.METHODS`, or FILE.py:NAME of your own; by default `methods.DEFAULT`."""
    temperature: float | None = None
    """Temperature of a loss that has one; by default the official one."""
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Residual blocks of each stage."""
    bottleneck: bool = False
    width: int = 16
    """Channels of the first stage."""
    stem: Literal["small", "imagenet"] = "small"
    norm: Literal["batch", "group"] = "batch"
    head: tuple[int, ...] = (10,)
    """Layers from features to embedding; the last is d."""
    predictor: tuple[int, ...] = (512,)
    """Hidden layers of the predictor, where the method has one."""
    start_scale: float = 1e-3
    """Factor on the starting weights; 1 is a standard start."""
    start_of: Literal["head", "all"] = "head"
    """Which weights it shrinks: the head's last layer, or all."""
    offset: float = 0.0
    """Norm of the head's bias at the start, the small start of a loss that is blind to scale
    (`models.offset_start`); 0: no bias.
    """
    optimiser: Literal["sgd", "lars", "adam", "adamw"] = "sgd"
    """lars leaves biases and normalisations alone, as does adamw's decay."""
    lr: float = 0.004
    momentum: float = 0.9
    """Of sgd and lars."""
    weight_decay: float = 0.0
    """Of all but adam."""
    warmup: int = 0
    """Steps of linear warm-up."""
    cosine: bool = False
    """Whether the rate then falls to a thousandth as a cosine."""
    batch_size: int = 64
    """Pairs a step."""
    steps: int = 2200
    probe: int = 256
    """Images on which all curves are measured."""
    records: int = 150
    """Samples of the curves, on a geometric grid of steps."""
    checkpoint_every: int = 200
    """Steps."""
    snapshots: int = 0
    """So many networks on the way are kept, on a geometric grid from a hundredth of the steps, and
    that at step 0.
    """
    half: bool = False
    """Compute in bfloat16; parameters stay in float32."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run could use, before anything is loaded."""
        from stepwise import _check, methods  # which import JAX
        from stepwise.views import RECIPES

        object.__setattr__(self, "method", self.method or methods.DEFAULT)
        known = {
            "recipe": RECIPES,
            "optimiser": ("sgd", "lars", "adam", "adamw"),
        }
        for name, names in known.items():
            value = getattr(self, name)
            _check.require(value in names, name, f"one of {sorted(names)}", repr(value))
        for name in ("blocks", "head", "predictor"):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and all(
                isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in value
            )
            fits = fits and (len(value) > 0 or name == "predictor")
            _check.require(fits, name, "a tuple of positive whole numbers", repr(value))
        from_one, from_zero = (
            ("n_images", "side", "width", "steps"),
            ("warmup", "snapshots", "seed"),
        )
        for name in (*from_one, *from_zero):
            _check.whole(name, getattr(self, name), 1 if name in from_one else 0)
        for name, below in {"offset": math.inf, "weight_decay": math.inf, "momentum": 1.0}.items():
            value = getattr(self, name)
            _check.require(0 <= value < below, name, f"a number in [0, {below})", repr(value))
        for name in ("start_scale", "lr"):
            value = getattr(self, name)
            _check.require(0 < value < math.inf, name, "a positive number", repr(value))
        has_one = "temperature" in signature(methods.find(self.method).objective.loss).parameters
        expected = "None for a loss without a temperature"
        fits = self.temperature is None or has_one
        _check.require(fits, "temperature", expected, self.temperature)
        fits = self.temperature is None or 0 < self.temperature < math.inf
        _check.require(fits, "temperature", "a positive number", self.temperature)

    @classmethod
    def for_method(cls, method: str = "", occasion: str = "small", **changes: Any) -> "Config":
        """The configuration of a method with the start and the schedule of its row
        (`methods.Method.settings`), and these changes.
        """
        from stepwise import methods

        row = methods.find(method)
        return cls(**{"method": method or row.name} | row.settings(occasion) | changes)
