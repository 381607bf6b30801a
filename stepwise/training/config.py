"""The settings of a training run and their checks.

Importing this module needs no JAX; creating a `Config` does.
"""

import math
from dataclasses import dataclass, field, fields
from inspect import signature
from typing import Any, Literal, get_args

LEAST_SIDE = 8
"""Smallest side of training images, in pixels."""
ADDED = (
    "loss",
    "loss_options",
    "center",
    "decay",
    "backbone",
    "patch",
    "prototypes",
    "predictor_start",
)
"""Fields that earlier versions did not have, which at their defaults do not identify a run."""


@dataclass(frozen=True)
class Config:
    """All settings of a training run.

    With the defaults, a small ResNet trains in minutes on two cores.
    """

    data: str = "photos"
    """Images to train on: photos, glyphs, cifar10, stl10, folder:PATH, pairs:PATH or npz:PATH."""
    data_dir: str | None = None
    """Folder of the cifar10 or stl10 files; by default they are downloaded once to a cache."""
    split: str = "train"
    """Part of the data set to train on: train, test, val (folders) or unlabeled (stl10)."""
    n_images: int = 4096
    """Number of images to train on, a random subset of the split; fewer images are an error."""
    side: int = 32
    """Side of the square images, in pixels (at least 8), before views are made from them."""
    recipe: str = "small"
    """Augmentations that make the views, a name in `views.RECIPES`: crop20, small, simclr,
    simclr_cifar, barlow_twins, vicreg, byol, simsiam, simsiam_cifar, spectral, spectral_cifar,
    dino, dino_multicrop or clip.
    """
    method: str = ""
    """Objective: a name in `methods.METHODS`, or FILE.py:NAME; if empty, `methods.DEFAULT`."""
    temperature: float | None = None
    """Temperature of the loss, for a loss that has one; by default the official value."""
    loss: Literal["published", "law"] = "published"
    """Form of the loss: the published one, or the one of which the method's law is exact."""
    loss_options: dict[str, float] = field(default_factory=dict, hash=False)
    """Other arguments of the loss by name, such as teacher_temperature 0.06 of dino."""
    center: bool = False
    """Subtract the mean over the batch from the embeddings, for a loss that does not do so."""
    decay: float | None = None
    """Decay rate of the target network, for a method that has one; by default the official one."""
    backbone: Literal["resnet", "vit"] = "resnet"
    """Network below the head. A vision transformer (vit) has as many layers as there are blocks, in
    tokens of 8 x width numbers, and no batch normalisation.
    """
    patch: int = 4
    """Side of the patches of a vision transformer, in pixels."""
    blocks: tuple[int, ...] = (1, 1, 1, 1)
    """Number of residual blocks in each stage of the network."""
    bottleneck: bool = False
    """Use bottleneck blocks, as ResNet-50 does, instead of blocks of two 3 x 3 convolutions."""
    width: int = 16
    """Number of channels in the first stage; each later stage has twice as many."""
    stem: Literal["small", "imagenet"] = "small"
    """First layer: a 3 x 3 convolution (small), or a strided 7 x 7 and a max-pooling (imagenet)."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation in the backbone: over the batch, or over groups of channels of one image."""
    head: tuple[int, ...] = (10,)
    """Widths of the layers from features to embedding; the last is the embedding dimension d."""
    prototypes: int = 0
    """Number of prototypes of unit norm, whose products with the head's normalised outputs are then
    the embedding (the head of DINO); 0 means none.
    """
    predictor: tuple[int, ...] = (512,)
    """Widths of the predictor's hidden layers, for a method that has a predictor."""
    predictor_start: float = 0.0
    """Factor on the identity at which a predictor without hidden layers starts; 0 means a random
    start.
    """
    start_scale: float = 1e-3
    """Factor by which the starting weights are multiplied; 1 keeps the standard start."""
    start_of: Literal["head", "all"] = "head"
    """Weights to multiply by `start_scale`: those of the head's last layer (head), or all."""
    offset: float = 0.0
    """Norm of the head's bias at the start (`models.offset_start`); 0 means a head without bias."""
    optimiser: Literal["sgd", "lars", "adam", "adamw", "muon"] = "sgd"
    """Optimiser; lars and adamw do not decay biases or normalisations, nor does lars scale them.
    muon updates matrices and convolutions, and leaves the others to adam at the same rate.
    """
    lr: float = 0.004
    """Learning rate, after any warm-up and before any cosine decay."""
    momentum: float = 0.9
    """Momentum of sgd, lars and muon; adam and adamw ignore it."""
    weight_decay: float = 0.0
    """Weight decay of sgd, lars, adamw and muon, where 0 means none; adam ignores it."""
    warmup: int = 0
    """Number of steps over which the learning rate rises linearly; 0 means no warm-up."""
    cosine: bool = False
    """Lower the learning rate to a thousandth along a cosine, over the steps after the warm-up."""
    batch_size: int = 64
    """Number of images in each step, each with its own random views."""
    steps: int = 2200
    """Number of training steps."""
    probe: int = 256
    """Number of training images to measure loss and eigenvalues on; all if there are fewer."""
    records: int = 150
    """Number of measurements during training, at geometrically spaced steps."""
    checkpoint_every: int = 200
    """Number of steps between two checkpoints."""
    snapshots: int = 0
    """Networks to save in addition to step 0, at geometrically spaced steps; 0 means none."""
    frames: Literal["first", "all"] = "first"
    """Pages or frames to read of each file of a folder: the first, or all as separate images."""
    background: str = "white"
    """Colour on which transparent images of a folder are put: a name, or a code such as #808080."""
    depth: int | None = None
    """Bits that a folder's images of 16 bits per channel use; by default these are rejected."""
    skip_damaged: bool = False
    """Leave out a folder's damaged files and unreadable sub-folders, and print how many."""
    half: bool = False
    """Compute in bfloat16; parameters stay in float32."""
    seed: int = 0
    """Seed of the starting weights, the subset of images, the batches and the views."""

    def __post_init__(self) -> None:
        """Reject settings that no run can use, before any data are loaded.

        Raises:
            ValueError: if a setting is out of range or unknown; the message names it.
        """
        from stepwise import _check, methods  # which import JAX
        from stepwise.views import RECIPES

        self._require_types()
        object.__setattr__(self, "method", self.method or methods.DEFAULT)
        choices = {
            "recipe": RECIPES,
            "norm": ("batch", "group"),
            "stem": ("small", "imagenet"),
            "start_of": ("head", "all"),
            "optimiser": ("sgd", "lars", "adam", "adamw", "muon"),
        }
        for name, names in choices.items():
            value = getattr(self, name)
            _check.require(value in names, name, f"one of {', '.join(names)}", repr(value))
        for name in ("blocks", "head", "predictor"):
            value = getattr(self, name)
            fits = isinstance(value, tuple) and all(
                isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in value
            )
            fits = fits and (len(value) > 0 or name == "predictor")
            _check.require(fits, name, "a tuple of positive whole numbers", repr(value))
        counts = ("n_images", "width", "steps", "patch", "batch_size", "probe", "records")
        least = dict.fromkeys((*counts, "checkpoint_every"), 1)
        least |= dict.fromkeys(("warmup", "snapshots", "seed", "prototypes"), 0)
        for name, minimum in least.items():
            _check.whole(name, getattr(self, name), minimum)
        self._require_side()
        for name, bound in {"offset": math.inf, "weight_decay": math.inf, "momentum": 1.0}.items():
            value = getattr(self, name)
            _check.require(0 <= value < bound, name, f"a number in [0, {bound})", repr(value))
        for name in ("start_scale", "lr"):
            value = getattr(self, name)
            _check.require(0 < value < math.inf, name, "a positive number", repr(value))
        self._require_loss()
        self._require_head()

    def _require_types(self) -> None:
        """Replace NumPy's numbers by Python's, and reject a value of another type than its field.

        `loss_options` becomes a copy.
        """
        from stepwise import _check

        for each in fields(self):
            value = getattr(self, each.name)
            if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
                value = value.item()
                object.__setattr__(self, each.name, value)
            kinds = set(get_args(each.type) or (each.type,))
            if value is None and type(None) in kinds:
                continue
            if bool in kinds:
                _check.require(isinstance(value, bool), each.name, "True or False", repr(value))
            elif float in kinds and each.name != "loss_options":
                fits = isinstance(value, int | float) and not isinstance(value, bool)
                _check.require(fits, each.name, "a number", repr(value))
            elif all(kind is str or isinstance(kind, str) for kind in kinds - {type(None)}):
                _check.require(isinstance(value, str), each.name, "a name", repr(value))
        given = self.loss_options
        fits = isinstance(given, dict)
        _check.require(fits, "loss_options", "a dict of numbers by name", repr(given))
        plain = {
            name: value.item() if hasattr(value, "item") else value for name, value in given.items()
        }
        object.__setattr__(self, "loss_options", plain)

    def _require_loss(self) -> None:
        """Reject a form or an argument that the loss of the method does not have."""
        from stepwise import _check, methods
        from stepwise.views import RECIPES, MultiCrop

        row = methods.find(self.method)
        _check.require(self.loss in ("published", "law"), "loss", "published or law", self.loss)
        expected = "published, because the law of this method, if any, is that of this form"
        fits = self.loss == "published" or row.law_loss is not None
        _check.require(fits, "loss", expected, repr(self.loss))
        loss = row.objective.loss if self.loss == "published" else row.law_loss
        assert loss is not None
        keywords = [p for p in signature(loss).parameters.values() if p.kind == p.KEYWORD_ONLY]
        defaults = {p.name: p.default for p in keywords}
        names = {*defaults} - {"state", "parameters", "local"}
        both = self.temperature is not None and "temperature" in self.loss_options
        _check.require(not both, "loss_options", "no temperature beside --temperature", "both")
        several = isinstance(RECIPES[self.recipe], MultiCrop)
        expected = "two views, because the loss of this method takes no local crops"
        _check.require(not several or "local" in defaults, "recipe", expected, self.recipe)
        expected = "no value, because the loss of this method has no temperature"
        fits = self.temperature is None or "temperature" in names
        _check.require(fits, "temperature", expected, self.temperature)
        fits = self.temperature is None or 0 < self.temperature < math.inf
        _check.require(fits, "temperature", "a positive number", self.temperature)
        for name, value in self.loss_options.items():
            expected = f"arguments of the loss, {', '.join(sorted(names))}" if names else "nothing"
            _check.require(name in names, "loss_options", expected, repr(name))
            if isinstance(defaults[name], bool):
                fits, expected = value in (0, 1), "True or False (1 or 0)"
                self.loss_options[name] = bool(value)
            else:
                number = isinstance(value, int | float) and not isinstance(value, bool)
                fits, expected = number and abs(value) < 1e300, "a finite number"
            _check.require(fits, f"loss_options: {name}", expected, repr(value)[:60])
            if not isinstance(defaults[name], bool):
                whole = isinstance(defaults[name], int) and float(value).is_integer()
                self.loss_options[name] = int(value) if whole else float(value)
        fits = self.decay is None or row.objective.decay is not None
        expected = "no value, because this method has no target network"
        _check.require(fits, "decay", expected, self.decay)
        fits = self.decay is None or 0 <= self.decay <= 1
        _check.require(fits, "decay", "a number in [0, 1]", self.decay)

    def _require_head(self) -> None:
        """Reject a backbone, a head or a predictor that cannot be built."""
        from stepwise import _check, methods

        known = ("resnet", "vit")
        _check.require(self.backbone in known, "backbone", "resnet or vit", repr(self.backbone))
        if self.backbone == "vit":
            for name in ("norm", "stem", "bottleneck"):
                value, usual = getattr(self, name), type(self).__dataclass_fields__[name].default
                expected = f"{usual!r} with a vit, which has none of this"
                _check.require(value == usual, name, expected, repr(value))
            heads = max(1, self.width // 8)
            expected = f"a number that the {heads} heads of a vit of this width divide evenly"
            _check.require(8 * self.width % heads == 0, "width", expected, self.width)
        fits = 0 <= self.predictor_start < math.inf
        _check.require(fits, "predictor_start", "0 or a positive number", self.predictor_start)
        if self.predictor_start > 0:
            fits = methods.find(self.method).objective.predictor and self.predictor == ()
            expected = "0, unless the method has a predictor, without hidden layers (predictor=())"
            _check.require(fits, "predictor_start", expected, self.predictor_start)
        if self.prototypes > 0:
            plain = self.start_scale == 1 and self.offset == 0
            expected = "start_scale=1 and offset=0, as normalised outputs have no small start"
            received = f"{self.start_scale} and {self.offset}"
            _check.require(plain, "prototypes", expected, received)

    def _require_side(self) -> None:
        """Reject images that are too small for the crops of the recipe or for the network."""
        from stepwise import _check
        from stepwise.views import RECIPES, Crop, MultiCrop

        recipe = RECIPES[self.recipe]
        pair = (recipe.first, recipe.second)
        crops = [view.crop.side for view in pair if isinstance(view.crop, Crop)]
        least = max([LEAST_SIDE, *crops])
        why = f", the side of the crops of the recipe {self.recipe}" if least in crops else ""
        _check.whole("side", self.side, least, why=why)
        local = (recipe.local,) if isinstance(recipe, MultiCrop) else ()
        sizes = [min(view.size(self.side, self.side)) for view in (*pair, *local)]
        size = min(sizes)
        if self.backbone == "vit":
            expected = f"views whose side is a multiple of the {self.patch} pixels of a --patch"
            wrong = [each for each in sizes if each % self.patch > 0]
            _check.require(not wrong, "side", expected, wrong[0] if wrong else size)
            return
        stride = 2 ** (len(self.blocks) - 1) * (4 if self.stem == "imagenet" else 1)
        expected = f"views of at least {stride} pixels, by which the network divides their side"
        received = f"{size}; use a larger --side, fewer --blocks or --stem small"
        _check.require(size >= stride, "side", expected, received)

    def identity(self) -> dict[str, Any]:
        """Return the settings by name, without those that were added later and have their defaults.

        So the runs of earlier versions keep their folders.
        """
        plain = Config()
        return {
            each.name: getattr(self, each.name)
            for each in fields(self)
            if each.name not in ADDED or getattr(self, each.name) != getattr(plain, each.name)
        }

    @classmethod
    def for_method(cls, method: str = "", occasion: str = "small", **changes: Any) -> "Config":
        """Return the configuration of a method, with the start and the schedule of its row.

        Args:
            method: a name, or FILE.py:NAME, as in `methods.find`.
            occasion: one of `methods.OCCASIONS`; see `methods.Method.settings`.
            changes: values of other fields, which take precedence over the row's.

        Raises:
            ValueError: if the method or the occasion is unknown, or a value is out of range.
        """
        from stepwise import methods

        row = methods.find(method)
        return cls(**{"method": method or row.name} | row.settings(occasion) | changes)
