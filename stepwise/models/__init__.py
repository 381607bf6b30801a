"""Networks, as pure functions of their parameters.

- `ResNet`, `ViT` and `Features` are backbones, `Head` and `PrototypeHead` map features to
  embeddings, and an `Encoder` is a backbone with its head. `MLP` is a network in NTK
  parametrisation.
- `functional` splits a Flax NNX module into a pure function and its parameters. `stateful` does so
  for a module with batch statistics, and `evaluation` for one whose statistics stay fixed.
- `scale_start` makes a small start in the rich regime, where modes are learned in steps but the
  lazy prediction does not hold. `antisymmetric` makes one in the lazy regime: outputs are near
  zero, and the kernel is unchanged. A loss of directions alone needs `offset_start` and a small
  head.
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
from stepwise.models.prototypes import PrototypeHead
from stepwise.models.resnet import ResNet, count_parameters
from stepwise.models.vit import ViT

__all__ = [
    "MLP",
    "Apply",
    "Encoder",
    "Features",
    "Forward",
    "Head",
    "PrototypeHead",
    "ResNet",
    "ViT",
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
