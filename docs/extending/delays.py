"""A figure in one file: how far gradient descent lags the flow, against the learning rate.

Claim          Descent reaches each step later than the flow by the fraction that the law predicts.
Paper          beyond the paper, which treats only the flow.
Command        make delays (PRESET=smoke|laptop|paper), once this file is in experiments/figures/
Expected       the measured delay within a tenth of the predicted one, for every learning rate
"""

from dataclasses import asdict, dataclass

import numpy as np

from experiments.contract import Check, Result, silent
from stepwise import dynamics, laws, plotting, problem, spectra

SECONDS = {"smoke": 5, "laptop": 20}


@dataclass(frozen=True)
class Config:
    """The parameters of the figure."""

    d: int = 3
    rates: tuple[float, ...] = (0.005, 0.01, 0.02, 0.04)
    """Learning rates, as fractions of the largest stable one."""
    scale: float = 1e-4
    x64: bool = True

    @classmethod
    def smoke(cls):
        """Two rates; takes seconds."""
        return cls(rates=(0.02, 0.04))

    @classmethod
    def laptop(cls):
        """Four rates."""
        return cls()

    @classmethod
    def paper(cls):
        """The same as `laptop`, because more rates add nothing."""
        return cls()


def run(config, progress=silent):
    """Return the measured and the predicted delays, one row for each learning rate."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 8)) * np.geomspace(1, 0.3, 8)
    p = problem.from_views(x, x + 0.1 * rng.normal(size=x.shape))
    A0 = p.optimum(config.d) * config.scale
    law = laws.law_of(None, p, config.d)
    lam0 = law.unit()[: config.d] * (A0[:, : config.d] ** 2).sum(axis=0)
    flow = np.asarray(law.step_times(lam0))
    measured, predicted = [], []
    for rate in config.rates:
        progress(f"learning rate: {rate} of the largest stable one")
        lr = rate * float(p.max_stable_lr())
        descent = dynamics.descent(p, A0, lr, int(1.2 * flow.max() / lr))
        measured.append(spectra.step_times(descent.times, descent.eigenvalues) / flow - 1)
        predicted.append(np.asarray(law.descent_delay(lr, lam0)))
    arrays = {"measured": np.array(measured), "predicted": np.array(predicted)}
    return Result(arrays, {"config": asdict(config)})


def check(result):
    """Return the checks of the claim and of its premise."""
    measured, predicted = result.arrays["measured"], result.arrays["predicted"]
    learned = float(np.isfinite(measured).mean())
    off = np.abs(measured / predicted - 1).max()
    return [
        Check("fraction of modes learned", learned, 1, "==", premise=True),
        Check("largest relative error of a predicted delay", float(off), 0.1, "<="),
    ]


def plot(result):
    """Draw the measured against the predicted delay, one colour for each mode."""
    fig = plotting.figure(5, 4)
    ax = fig.subplots()
    measured, predicted = result.arrays["measured"], result.arrays["predicted"]
    for j, colour in enumerate(plotting.mode_colours(measured.shape[1])):
        ax.loglog(predicted[:, j], measured[:, j], "o", color=colour, label=f"mode {j + 1}")
    ends = [predicted.min(), predicted.max()]
    ax.plot(ends, ends, color=plotting.INK, lw=0.8, label="as predicted")
    ax.set(xlabel="predicted delay", ylabel="measured delay")
    ax.set_title("Delay of gradient descent behind the flow")
    ax.legend()
    return fig
