"""Networks, as pure functions of their parameters.

`ntk.MLP` is in NTK parametrisation; `functional` splits any Flax NNX module into a pure function and its parameters;
`doubled` starts one near zero without changing its kernel.
"""

from stepwise.models.functional import doubled, doubled_start, functional
from stepwise.models.ntk import MLP

__all__ = ["MLP", "doubled", "doubled_start", "functional"]
