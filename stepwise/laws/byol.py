"""The law of BYOL and SimSiam with a linear predictor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stepwise import _check
from stepwise.laws import lag
from stepwise.laws.base import NotKnownError
from stepwise.laws.frame import Framed
from stepwise.types import Numbers, Real, Whole


class State(NamedTuple):
    """Aligned modes of a linear model: encoder w, predictor p and target, each [T, d]."""

    encoder: Any
    predictor: Any
    target: Any


class Weights(TypedDict):
    """Weights of a linear model: encoder W [d, r], predictor P [d, d] and target W_a [d, r]."""

    encoder: Any
    predictor: Any
    target: Any


@dataclass(frozen=True)
class BYOL(Framed):
    r"""Growth of the embedding's covariance under BYOL or SimSiam with a linear predictor P.

    The embeddings are W x, the predictions P W x and the targets W_a x. With E = W_a Γ − P W Σ the
    gradient flow, with learning rate alpha · lr for the predictor, is

        W' = f Pᵀ E,        P' = f alpha E Wᵀ,        W_a' = ema · (W − W_a).

    It is the flow of `losses.byol(p1, p2, z1, z2, normalise=False)` with f = 4, and of
    `losses.simsiam(p1, p2, z1, z2, normalise=False)` with f = 1, for any data; moments are
    uncentred. The normalised losses follow another law (they conserve ‖W‖ and have no plateau).
    With Γ and Σ of one eigenbasis, and W, P and W_a aligned with it, each mode has three variables:

        w' = f p (γ v − σ p w),     p' = f alpha w (γ v − σ p w),     v' = ema · (w − v).

    κ = w² − p²/alpha is conserved, for any target. From a small w the predictor stays at p0, and
    the variance λ = σ w² grows at the rate 2f p0 (γ − σ p0), which is largest at p0 = ρ/2, with
    ρ = γ/σ. With a lag the rate is 2r, (r + f σ p0²)(r + ema) = f ema γ p0. In both cases a mode
    grows if p0 lies between 0 and ρ. It rests at p = ρ, where λ = σ (ρ² − p0²)/alpha. Other modes
    decay, so a predictor with p0 > ρ lets the mode collapse.

    The rate at a small start holds until w is about p0/√alpha. If p0 is small too, most of the wait
    is not exponential: it is 1/(f γ p0) for alpha w² = p². `eigenvalues` and `step_times` integrate
    the three variables, and are exact in either case.

    The state has three matrices, so `rhs` and `objective`, which receive W alone, raise
    NotKnownError. `rhs_tree` and `objective_tree` take the three matrices, and any Σ and Γ.

    Tian, Chen & Ganguli (2021), arXiv 2102.06810, lemma 1, and theorem 1 without weight decay for
    the conserved quantity.

    Args:
        gamma: cross-view moments γ of the modes [r].
        sigma: single-view moment Σ in the same coordinates, σ [r] or a matrix [r, r]. If it is not
            diagonal, curves neglect its entries between the law's modes (`Framed`), and
            predictor must be one number.
        predictor: initial eigenvalues p0 of P, one for each mode [r] or one for all; not 0. A
            generic small start acts as an aligned one only if there is one number (P = p0 I).
        alpha: learning rate of the predictor in units of that of the encoder.
        ema: rate (1 − decay)/lr at which the target follows the encoder, from a copy of it (with
            momentum, see `methods.theory.with_lag`). None if the target is the encoder itself, as
            in SimSiam.
        factor: f.

    Raises:
        ValueError: if gamma is not a vector of finite numbers; if sigma has another shape or a
            negative variance; if predictor has another shape or is 0 for a mode; if alpha, ema or
            factor is not positive.
    """

    gamma: Numbers
    sigma: Numbers
    predictor: Numbers
    alpha: Real = 1
    ema: Real | None = None
    factor: Real = 4

    domain = (
        "linear models with a linear predictor, embeddings without normalisation, an aligned start "
        "or a small one; growth for any Γ and Σ, curves if they have a common eigenbasis"
    )
    observable = "covariance"
    formula = "E‖P W x − W′x′‖²"
    title = "BYOL and SimSiam, not normalised, with a linear predictor"
    call = (
        "losses.byol(p1, p2, z1, z2, normalise=False) with f = 4, or "
        "losses.simsiam(p1, p2, z1, z2, normalise=False) with f = 1"
    )
    mode = (
        r"w' = f p (\gamma v - \sigma p w), \quad p' = f \alpha w (\gamma v - \sigma p w), \quad "
        r"v' = \mu (w - v)"
    )
    behaviour = (
        "From a small encoder, a mode grows exponentially if the predictor p0 lies between 0 and "
        "ρ, fastest at ρ/2 if there is no lag. Only if the predictor starts small too, the wait is "
        "a power of the start: 1/(f γ p0) for αw² = p². A generic small start acts as an aligned "
        "one if P starts as a multiple of the identity."
    )
    prediction = (
        "The start of the predictor decides: a mode whose ρ is smaller than p0 collapses. "
        "w² − p²/α is conserved for any target, however slow."
    )

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        p0 = jnp.asarray(_check.real_array("predictor", self.predictor, ndim=(0, 1)))
        fits = p0.shape in ((), gamma.shape)
        expected = f"a number or shape {list(gamma.shape)} as gamma"
        _check.require(fits, "predictor", expected, p0)
        if not _check.is_traced(p0):
            nonzero = bool(np.asarray(p0 != 0).all())
            _check.require(nonzero, "predictor", "eigenvalues other than 0", "0")
        _check.require(self.alpha is not None, "alpha", "a positive number", self.alpha)
        for name in ("alpha", "ema", "factor"):
            lag.check_rate(name, getattr(self, name))
        object.__setattr__(self, "predictor", p0)
        object.__setattr__(self, "rotates", p0.ndim == 0)
        self._find_modes(positive=False)

    def _operator(self, gamma: Array, sigma: Array) -> Array:
        """Return p0 (Γ − p0 Σ), whose eigenvectors do not depend on a lag if p0 is one number."""
        _check.require(
            jnp.ndim(self.predictor) == 0,
            "predictor",
            "one number if Σ is not diagonal",
            self.predictor,
        )
        return self.predictor * (gamma - self.predictor * sigma)

    def agreement(self) -> Float[Array, " r"]:
        """Return ρ = γ/σ [r], the value of p at rest, and 0 where σ = 0."""
        sigma = self.frame.sigma
        return jnp.where(sigma > 0, self.frame.gamma / jnp.where(sigma > 0, sigma, 1), 0)

    def growth(self) -> Float[Array, " r"]:
        """Return 2r [r], r = f p0 (γ − σ p0) or (r + f σ p0²)(r + ema) = f ema γ p0."""
        p0 = self._start()
        pull, drive = self.factor * self.frame.sigma * p0**2, self.factor * self.frame.gamma * p0
        return 2 * lag.growth(pull, drive, self.ema)

    def grows(self) -> Bool[Array, " r"]:
        """Return which modes grow [r]: those with p0 between 0 and ρ."""
        p0 = self._start()
        return p0 * (self.frame.gamma - self.frame.sigma * p0) > 0

    def rest(self) -> Float[Array, " r"]:
        """Return σ (ρ² − p0²)/alpha [r] for modes that grow, from a small w; else 0."""
        rest = self.frame.sigma * (self.agreement() ** 2 - self._start() ** 2) / self.alpha
        return jnp.where(self.grows(), rest, 0)

    def reason(self, mode: Whole) -> str:
        """Return why a mode does not grow."""
        rho, p0 = float(self.agreement()[mode]), float(self._start()[mode])
        return f"agreement {rho:.2f} is not beyond {p0:.2f}, the start of the predictor"

    def states(self, times: Numbers, lam0: Numbers) -> State:
        """Return w, p and v [T, d] from an aligned start with v = w = √(λ/σ) and p = p0.

        Args:
            times: t [T], learning rate × step, not negative.
            lam0: λ(0) [d], d ≤ r; entry i belongs to mode order[i].
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        return _states(self, times, lam0, modes)

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ = σ w² [T, d] at times [T] from λ(0) [d], by integration of each mode."""
        times, lam0, modes = self.check_arguments(times, lam0)
        return self.unit()[modes][None] * _states(self, times, lam0, modes).encoder ** 2

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each λ rises through level · rest [d], or infinity if it never does.

        The time is integrated over ln w, because w only increases if its mode grows.
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        return _step_times(self, lam0, level, modes)

    def loss(self, times: Numbers, lam0: Numbers) -> Float[Array, " T"]:
        """Return the loss (f/2) Σ_j (σ p² w² − 2γ p w v + σ v²) [T] of the modes of lam0.

        It starts near 0, and rises to (f/2) Σ_j λ_j (1 − ρ_j²) while the modes are learned.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        w, p, v = _states(self, times, lam0, modes)
        gamma, sigma = (
            jnp.asarray(part)[modes][None] for part in (self.frame.gamma, self.frame.sigma)
        )
        each = sigma * (p * w) ** 2 - 2 * gamma * p * w * v + sigma * v**2
        return self.factor / 2 * jnp.sum(each, axis=1)

    def has_converged(self, loss: Numbers, d: Whole) -> Bool[Array, ""]:
        """Raise NotKnownError, because the loss of collapsed embeddings is lower than at rest."""
        raise NotKnownError(self._lacks("has_converged", "a loss that decreases"))

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Raise NotKnownError, because the flow needs the predictor and the target too."""
        raise NotKnownError(self._lacks("rhs", "a flow of mode coordinates alone (see rhs_tree)"))

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Raise NotKnownError, because the loss needs the predictor and the target too."""
        what = "a loss of mode coordinates alone (see objective_tree)"
        raise NotKnownError(self._lacks("objective", what))

    def rhs_tree(self, weights: Weights) -> Weights:
        """Return the exact flow of the three matrices.

        Without a lag, W_a is W, and the entry "target" is not read.
        """
        W, P = jnp.asarray(weights["encoder"]), jnp.asarray(weights["predictor"])
        target = W if self.ema is None else jnp.asarray(weights["target"])
        E = self._by_gamma(target) - P @ self._by_sigma(W)
        by_W = self.factor * P.T @ E
        follows = by_W if self.ema is None else self.ema * (W - target)
        return Weights(encoder=by_W, predictor=self.factor * self.alpha * E @ W.T, target=follows)

    def objective_tree(self, weights: Weights) -> Float[Array, ""]:
        """Return (f/2) tr[P W Σ Wᵀ Pᵀ − 2 P W Γ W_aᵀ + W_a Σ W_aᵀ] of the three matrices."""
        W, P = jnp.asarray(weights["encoder"]), jnp.asarray(weights["predictor"])
        target = W if self.ema is None else jnp.asarray(weights["target"])
        predicted = P @ W
        square = predicted * self._by_sigma(predicted) + target * self._by_sigma(target)
        return self.factor / 2 * jnp.sum(square - 2 * predicted * self._by_gamma(target))

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return the rate at which the variance of mode k grows in a row that rests on mode j.

        It is 2f ρ_j σ_k (ρ_k − ρ_j), or 2r with (r + f σ_k ρ_j²)(r + ema) = f ema γ_k ρ_j: the
        mode with the larger agreement ρ replaces the other.
        """
        p = self.agreement()[j]
        pull, drive = (
            self.factor * self.frame.sigma[k] * p**2,
            self.factor * self.frame.gamma[k] * p,
        )
        return 2 * lag.growth(pull, drive, self.ema)

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Return the largest growth rate of the other modes, which learned modes do not change.

        Args:
            learned: indices of the modes at rest [k].

        Raises:
            ValueError: if learned is not a vector of indices.
        """
        modes = np.asarray(learned)
        _check.require(modes.ndim == 1, "learned", "indices of modes [k]", f"rank {modes.ndim}")
        growth = self.growth()
        return jnp.max(growth.at[modes.astype(int)].set(-jnp.inf))

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2 over the largest decay rate at rest, below which descent is stable.

        A row that rests on mode j has p = ρ_j, and the entries of mode k in it decay at the rate
        f σ_k (ρ_j² + alpha w_k² − ρ_j ρ_k), w_k being the amplitude at which mode k rests in
        another row. With a lag, the rate is ½[a + ema + √((a − ema)² + 4 ema f γ_k ρ_j)] with
        a = f σ_k (ρ_j² + alpha w_k²). For j = k these are f alpha σ w² and, for a slow target,
        f σ (alpha w² + p²). A spare row has p0 in place of ρ_j. Every mode that grows is taken as
        learned; fewer dimensions only allow a larger rate. A limit at the rest says nothing of a
        start with larger weights.
        """
        grows, p0 = self.grows(), self._start()
        square = self.alpha * self.rest() / jnp.where(self.frame.sigma > 0, self.frame.sigma, 1)
        rows = jnp.where(grows, self.agreement(), p0)
        pull = self.factor * self.frame.sigma[None] * (rows[:, None] ** 2 + square[None])
        drive = self.factor * self.frame.gamma[None] * rows[:, None]
        spare = lag.decay(
            self.factor * self.frame.sigma * (p0**2 + square),
            self.factor * self.frame.gamma * p0,
            self.ema,
        )
        return 2 / jnp.maximum(jnp.max(lag.decay(pull, drive, self.ema)), jnp.max(spare))

    def _exact_growth(self, j: int, d: Whole) -> float:
        """Return the largest rate of a spare row beside modes order[:j] at rest.

        `rhs_tree` is linearised in the row of the encoder (in the first 32 modes), that of the
        target, and the entries of the predictor between the row and the learned ones, which modes
        without a common eigenbasis excite.
        """
        modes, first = self.order[:j], self.order[:32]
        W = self.aligned_start(self.rest()[modes], modes)
        W = jnp.concatenate([W, jnp.zeros((1, W.shape[1]), W.dtype)])
        P = jnp.diag(jnp.concatenate([self.agreement()[modes], self._start()[:1]]))
        every = self.from_modes(jnp.eye(W.shape[1], dtype=W.dtype)[first])
        m = len(every)

        def flow(y: Array) -> Array:
            row, target_row, left, right = jnp.split(y, (m, 2 * m, 2 * m + j))
            predictor = P.at[j, :j].add(left).at[:j, j].add(right)
            encoder, target = (W.at[j].add(part @ every) for part in (row, target_row))
            change = self.rhs_tree(Weights(encoder=encoder, predictor=predictor, target=target))
            target = change["target"] if self.ema is not None else change["encoder"]
            return jnp.concatenate([
                every @ change["encoder"][j],
                every @ target[j],
                change["predictor"][j, :j],
                change["predictor"][:j, j],
            ])  # fmt: skip

        jacobian = jax.jit(jax.jacfwd(flow))(jnp.zeros(2 * (m + j), W.dtype))
        return float(2 * np.linalg.eigvals(np.asarray(jacobian)).real.max())

    def neglected(self, tau: Numbers, d: Whole) -> Float[np.ndarray, " k"]:
        """Return the relative error [k] of step times tau without a common eigenbasis.

        That of `Framed`, and the relative change of the earlier modes until the step. A learned row
        rotates towards modes of larger ρ, and loses variance if theirs is small. The change is
        extrapolated from the flow at rest, which is an upper bound if the row settles.
        """
        errors = super().neglected(tau, d)
        if self.basis is None:
            return errors
        tau, drift = np.asarray(tau, np.float64), np.zeros(len(tau))
        for j in range(1, len(tau)):
            if np.isfinite(tau[j]) and tau[j] > 0:
                drift[:j] += self._leaving(self.order[:j]) * max(tau[j] - tau[j - 1], 0)
                errors[j] += drift[:j].max()
        return errors

    def _leaving(self, modes: Array) -> Float[np.ndarray, " j"]:
        """Return the rates |d ln λ/dt| [j] at which modes leave their rests."""
        W, P = self.aligned_start(self.rest()[modes], modes), jnp.diag(self.agreement()[modes])
        change = self.rhs_tree(Weights(encoder=W, predictor=P, target=W))["encoder"]
        spread = self._by_sigma(W)
        return np.abs(2 * jnp.sum(spread * change, axis=1) / jnp.sum(spread * W, axis=1))

    def _start(self) -> Array:
        return jnp.broadcast_to(jnp.asarray(self.predictor), jnp.shape(self.frame.gamma))

    def _parameters(self, lam0: Array, modes: Array) -> dict[str, Array]:
        """Return γ, σ, p0 and w(0) of the modes of lam0 [d]."""
        gamma, sigma, p0 = (
            part[modes] for part in (self.frame.gamma, self.frame.sigma, self._start())
        )
        positive = (lam0 > 0) & (sigma > 0)
        square = jnp.where(positive, lam0 / jnp.where(positive, sigma, 1), 1)
        w0 = jnp.where(positive, jnp.sqrt(square), 0).astype(gamma.dtype)
        return {"gamma": gamma, "sigma": sigma, "p0": p0, "w0": w0}


@jax.jit
def _states(law: BYOL, times: Array, lam0: Array, modes: Array) -> State:
    """Integrate w/w0, p in units of its start, and v/w0 of each mode."""
    own = law._parameters(lam0, modes)
    own["size"] = jnp.maximum(jnp.abs(own["p0"]), jnp.sqrt(law.alpha) * own["w0"])

    def field(t: Array, y: Array, own: dict[str, Array]) -> Array:
        w, p, v = y[:, 0], own["size"] * y[:, 1], y[:, 0] if law.ema is None else y[:, 2]
        gap = law.factor * (own["gamma"] * v - own["sigma"] * p * w)
        by_w = p * gap
        by_p = law.alpha * own["w0"] ** 2 * w * gap / own["size"]
        return jnp.stack([by_w, by_p, by_w if law.ema is None else law.ema * (w - v)], axis=1)

    moving = (own["w0"] > 0).astype(own["w0"].dtype)
    start = jnp.stack([moving, own["p0"] / own["size"], moving], axis=1)
    y = lag.solve(field, start, times, own)
    return State(
        own["w0"][None] * y[..., 0], own["size"][None] * y[..., 1], own["w0"][None] * y[..., 2]
    )


@jax.jit
def _step_times(law: BYOL, lam0: Array, level: Any, modes: Array) -> Array:
    """Integrate t · growth and v/w over ln(w/w0)/span, with p² = p0² + alpha (w² − w0²)."""
    own, goal = law._parameters(lam0, modes), level * law.rest()[modes]
    crosses = law.grows()[modes] & (lam0 > 0) & (lam0 <= goal)
    own["rate"] = jnp.where(crosses, law.growth()[modes], 1)
    own["span"] = jnp.log(jnp.where(crosses, goal / jnp.where(crosses, lam0, 1), 1)) / 2

    def field(x: Array, y: Array, own: dict[str, Array]) -> Array:
        square = law.alpha * own["w0"] ** 2 * jnp.expm1(2 * x * own["span"])
        p = jnp.sign(own["p0"]) * jnp.sqrt(own["p0"] ** 2 + square)
        speed = law.factor * p * (own["gamma"] * y[:, 1] - own["sigma"] * p)
        behind = 0 * y[:, 1] if law.ema is None else law.ema * (1 - y[:, 1]) / speed - y[:, 1]
        return own["span"][:, None] * jnp.stack([own["rate"] / speed, behind], axis=1)

    start = jnp.stack([jnp.zeros_like(own["w0"]), jnp.ones_like(own["w0"])], axis=1)
    y = lag.solve(field, start, jnp.ones(1, start.dtype), own)
    return jnp.where(crosses, y[0, :, 0] / own["rate"], jnp.inf)
