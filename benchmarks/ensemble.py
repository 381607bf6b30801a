"""One hundred seeds by vmap, compared with a Python loop over the same jitted function."""

from collections.abc import Iterator

import numpy as np

from benchmarks import child
from benchmarks.report import Row


def rows(quick: bool) -> Iterator[Row]:
    """Measure the closed form and gradient descent on a problem with few modes."""
    seeds, n, d, r = (5, 30, 3, 20) if quick else (100, 500, 10, 30)
    for solver in ("closed_form", "descent"):
        together, alone = (
            child.run("ours:ensemble", solver, both, seeds, n, d, r) for both in (True, False)
        )
        gap = np.abs(together.arrays["eigenvalues"] - alone.arrays["eigenvalues"]).max()
        yield Row(
            "ensemble",
            f"{solver}, {seeds} seeds, d={d}, r={r}",
            "loop over the jitted function",
            together.seconds,
            together.compile,
            together.megabytes,
            alone.seconds,
            alone.megabytes,
            0,
            note=f"curves agree to {gap:.0e}",
        )
