"""Networks, as pure functions of their parameters.

`ResNet` and `Features` are backbones and `Head` what stands on them; an `Encoder` is both. `MLP` is
in NTK parametrisation. `functional` splits any Flax NNX module into a pure function and its
parameters, `stateful` one with batch statistics, `evaluation` one with those held fixed. A small
start is `scale_start` (the rich regime: steps, but no lazy prediction) or `antisymmetric` (the
lazy regime: near zero without changing the kernel); a loss of directions alone starts from
`offset_start` and a small head.
"""

from stepwise._moved import former_names
from stepwise.models.functional import (
    Apply,
    Forward,
    antisymmetric,
    antisymmetric_start,
    evaluation,
    functional,
    restore,
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
    "antisymmetric",
    "antisymmetric_start",
    "count_parameters",
    "evaluation",
    "functional",
    "offset_start",
    "restore",
    "scale_start",
    "stateful",
]

__getattr__ = former_names(
    __name__,
    {
        "doubled": "antisymmetric",
        "doubled_start": "antisymmetric_start",
        "restored": "restore",
    },
)
