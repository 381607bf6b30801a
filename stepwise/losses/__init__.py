"""Losses of joint embeddings, one function each, as the official code computes them.

Each function accepts the embeddings of two views [n, d], where row i of both belongs to image i,
and returns a scalar. The loss is always that of the whole batch, also under `jit` on sharded
embeddings. bfloat16 and float16 inputs are converted to float32.

`normalise=False` leaves out the normalisation of each embedding. The laws of linear models
(`stepwise.laws`) describe these forms of `simclr`, `clip`, `byol` and `simsiam`. `centred` computes
any loss of centred embeddings.

Four functions are forms for training (`stepwise.methods.Objective`): `clip_with_learned_scale` has
a parameter that is trained, within `clip_limit`; `dino_with_running_center`,
`isoloss_with_running_moment` and `lejepa_with_drawn_slices` have a state, and also return the next
one. The first parameter or state of each is a function of d: `clip_scale`, `dino_center`,
`isoloss_moment`, `lejepa_step`. `qwem` is a loss of word embeddings and of their target.
"""

from stepwise.losses.centring import centred
from stepwise.losses.contrastive import (
    clip,
    clip_limit,
    clip_scale,
    clip_with_learned_scale,
    simclr,
    spectral_contrastive,
)
from stepwise.losses.correlation import barlow_twins, barlow_twins_unnormalised, vicreg
from stepwise.losses.distillation import (
    byol,
    dino,
    dino_center,
    dino_with_running_center,
    isoloss,
    isoloss_moment,
    isoloss_with_running_moment,
    simsiam,
)
from stepwise.losses.isotropy import lejepa, lejepa_step, lejepa_with_drawn_slices
from stepwise.losses.words import qwem

__all__ = [
    "barlow_twins",
    "barlow_twins_unnormalised",
    "byol",
    "centred",
    "clip",
    "clip_limit",
    "clip_scale",
    "clip_with_learned_scale",
    "dino",
    "dino_center",
    "dino_with_running_center",
    "isoloss",
    "isoloss_moment",
    "isoloss_with_running_moment",
    "lejepa",
    "lejepa_step",
    "lejepa_with_drawn_slices",
    "qwem",
    "simclr",
    "simsiam",
    "spectral_contrastive",
    "vicreg",
]

# A stored run is identified by the module and name of its loss (`training.ownership`), which must
# not depend on the file in which the loss is defined.
for _name in __all__:
    globals()[_name].__module__ = __name__
