"""Networks, as pure functions of their parameters.

`ResNet` and `Features` are backbones and `Head` what stands on them; an `Encoder` is both. `MLP` is
in NTK parametrisation. `functional` splits any Flax NNX module into a pure function and its
parameters, `stateful` one with batch statistics, `evaluation` one with those held fixed. A small
start is `scale_start` (the rich regime: steps, but no lazy prediction), or `doubled` (the lazy one:
near zero without changing the kernel); that of a loss of directions is `offset_start` beside a
small head.
"""

from stepwise.models.functional import (
    Apply,
    Forward,
    doubled,
    doubled_start,
    evaluation,
    functional,
    restored,
    stateful,
)
from stepwise.models.heads import Encoder, Features, Head, offset_start, scale_start
from stepwise.models.ntk import MLP
from stepwise.models.resnet import ResNet, count_parameters

__all__ = [
    "MLP",
    "Apply",
    "Encoder",
    "Features",
    "Forward",
    "Head",
    "ResNet",
    "count_parameters",
    "doubled",
    "doubled_start",
    "evaluation",
    "functional",
    "offset_start",
    "restored",
    "scale_start",
    "stateful",
]
