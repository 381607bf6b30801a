"""The law of Barlow Twins for a linear encoder of several layers."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stepwise import _check
from stepwise.laws.barlow_twins import BarlowTwins
from stepwise.laws.base import Law, NotKnownError
from stepwise.types import Numbers, Real, Whole


@dataclass(frozen=True)
class DeepLinear(Law):
    r"""Growth of the embedding eigenvalues of a linear encoder of L layers, W = W_L ... W_1.

    The loss is ‖C − I‖² of Barlow Twins (`losses.barlow_twins_unnormalised(z1, z2)`), and every
    layer follows its own gradient. If the layers are balanced, W_{l+1}ᵀ W_{l+1} = W_l W_lᵀ, then
    the product follows (Arora et al. 2018, arXiv 1802.06509, theorem 1)

        W' = Σ_l (W Wᵀ)^{(L−l)/L} Q (Wᵀ W)^{(l−1)/L},    Q = 4 (I − C) W Γ.

    If it is also aligned, a mode has the same singular value a in every layer, λ = γ a^{2L}, and

        λ' = 8L γ^{1/L} λ^{2−1/L} (1 − λ).

    With u = λ^{1/L} this is 8γ^{1/L} t = F(u) − F(u(0)), which is inverted numerically, where
    F(u) = −u^{1−L}/(L − 1) + ∫₀ᵘ dv/(1 − v^L). The integral is u ₂F₁(1, 1/L; 1 + 1/L; u^L). L = 1
    is `BarlowTwins`.

    For L ≥ 2 small modes do not grow exponentially. The rate d ln λ/dt vanishes with λ, so that
    `growth` raises NotKnownError; `rate` is the rate at a given λ. A mode waits about
    1/(8 (L − 1) γ a(0)^{2L−2}). Unbalanced small layers also wait as long as α^{2−2L} times a
    constant of the seed, for a standard deviation α of the weights, but that constant does not
    follow from a QR factorisation: integrate `rhs` of the layers.

    Mode coordinates are the product A [d, r], whose layers are taken as balanced, or the layers
    (A_1 [h, r], ..., A_L [d, h]) themselves.

    Args:
        gamma: eigenvalues γ of the modes [r].
        layers: the number L of layers.
        d: dimension of the embedding, for `max_stable_lr`; by default r.

    Raises:
        ValueError: if gamma is not a vector of finite numbers or layers is not a positive whole
            number. Methods raise it if lam0 is not a vector of at most r finite numbers.
    """

    gamma: Numbers
    layers: int
    d: int | None = None

    domain = (
        "linear encoders of L layers with the theory's loss, any data, in modes of Γ, balanced "
        "layers; curves from an aligned start"
    )
    observable = "C"
    formula = "‖C − I‖²"
    title = "Barlow Twins, the theory's form, of a deep linear encoder"
    call = "losses.barlow_twins_unnormalised(z1, z2) of an encoder of L linear layers"
    mode = r"\lambda' = 8 L \gamma^{1/L} \lambda^{2 - 1/L} (1 - \lambda)"
    behaviour = (
        "For L ≥ 2 small modes do not grow exponentially: a mode waits about "
        "1/(8 (L − 1) γ a(0)²ᴸ⁻²), where a(0) is its singular value in every layer."
    )
    prediction = "The length of the plateau is a power of the start, instead of its logarithm."
    curves = "closed form of t(λ), inverted"
    second_moment = "does not enter the law"
    rotates = False  # but for one layer, as set below
    follows_gamma = True

    def __post_init__(self) -> None:
        gamma = jnp.asarray(_check.real_array("gamma", self.gamma, ndim=1))
        _check.whole("layers", self.layers)
        if self.d is not None:
            _check.whole("d", self.d)
        object.__setattr__(self, "gamma", gamma)
        # A generic start of deep layers does not act as the aligned one of a QR factorisation.
        object.__setattr__(self, "rotates", self.layers == 1)

    @property
    def order(self) -> Int[Array, " r"]:
        """The modes in descending order of γ, in which layers of equal scale learn them."""
        return jnp.argsort(-self.gamma)

    def growth(self) -> Float[Array, " r"]:
        """Return the rates 8γ [r] of one layer.

        Raises:
            NotKnownError: for two or more layers, where the rate depends on the start (`rate`).
        """
        if self.layers == 1:
            return 8 * self.gamma
        what = "a growth rate near a small start, which a linear encoder of one layer has"
        raise NotKnownError(self._lacks("growth", what) + f" with {self.layers} layers; see `rate`")

    def rate(self, lam: Numbers) -> Float[Array, " d"]:
        """Return d ln λ/dt = 8L γ^{1/L} λ^{1−1/L} (1 − λ) of the modes `order[:d]` at λ [d]."""
        _, lam, modes = self.check_arguments(jnp.zeros(1), lam)
        gamma, L = self.gamma[modes], self.layers
        return (
            8
            * L
            * gamma
            * jnp.abs(lam / jnp.where(gamma == 0, 1, gamma)) ** (1 - 1 / L)
            * (1 - lam)
        )

    def grows(self) -> Bool[Array, " r"]:
        """Return which modes grow [r]: those with γ > 0."""
        return self.gamma > 0

    def rest(self) -> Float[Array, " r"]:
        """Return the final eigenvalues [r]: 1 if γ > 0, else 0."""
        return (self.gamma > 0).astype(self.gamma.dtype)

    def objective(self, A: Any) -> Float[Array, ""]:
        """Return the loss ‖C − I‖_F² of a product A [d, r] or of a sequence of layers."""
        return BarlowTwins.distance(self.measure(A))

    def measure(self, A: Any) -> Float[Array, "d d"]:
        """Return C = A diag(γ) Aᵀ [d, d] of a product A [d, r] or of a sequence of layers."""
        product = multiply(A) if isinstance(A, tuple | list) else jnp.asarray(A)
        return (product * self.gamma[None]) @ product.T

    def rhs(self, A: Any) -> Any:
        """Return the flow of the product A [d, r] of balanced layers, or of a sequence of layers.

        The layers of a sequence, balanced or not, follow their own gradients.
        """
        if isinstance(A, tuple | list):
            return jax.tree.map(jnp.negative, jax.grad(self.objective)(A))
        A, L = jnp.asarray(A), self.layers
        AD = A * self.gamma[None]
        Q = 4 * (AD - (AD @ A.T) @ AD)
        U, s, V = jnp.linalg.svd(A, full_matrices=False)
        flow = jnp.zeros_like(A)
        for layer in range(1, L + 1):
            left, right = s ** (2 * (L - layer) / L), s ** (2 * (layer - 1) / L)
            part = Q if layer == L else (U * left[None]) @ (U.T @ Q)
            flow += part if layer == 1 else (part @ V.T * right[None]) @ V
        return flow

    def factorise(self, A: Numbers) -> tuple[Float[Array, "..."], ...]:
        """Return balanced layers (A_1 [k, r], [k, k], ..., A_L [d, k]), k = min(d, r), of A [d, r].

        With A = U S Vᵀ they are S^{1/L} Vᵀ, S^{1/L}, ..., U S^{1/L}.
        """
        A = jnp.asarray(_check.real_array("A", A, ndim=2))
        U, s, V = jnp.linalg.svd(A, full_matrices=False)
        if self.layers == 1:
            return (A,)
        root = s ** (1 / self.layers)
        return (root[:, None] * V, *[jnp.diag(root)] * (self.layers - 2), U * root[None])

    def loss_of(self, eigenvalues: Numbers) -> Any:
        """Return Σ_j (1 − λ_j)² of NumPy or JAX eigenvalues [..., d], as the same kind of array."""
        return ((1 - eigenvalues) ** 2).sum(axis=-1)

    def lowest_loss(self, d: Whole) -> Float[Array, ""]:
        """Return the final loss: 1 for each of the d dimensions without a positive mode."""
        return BarlowTwins(self.gamma).lowest_loss(d)

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ_j(t) from balanced aligned layers, in descending order of γ.

        F is inverted by bisection in the logarithm of u/(1 − u). λ(0) = 0 stays 0 and λ(0) = 1
        stays 1. A mode with γ < 0 decays to 0 as a power of t. Where λ(0) has not the sign of γ,
        which the model cannot have, the result is nan.

        Args:
            times: t [T], learning rate × step, none negative.
            lam0: λ(0) [d], d ≤ r.
        """
        times, lam0, modes = self.check_arguments(times, lam0)
        gamma = self.gamma[modes]
        if self.layers == 1:
            return BarlowTwins(gamma).eigenvalues(times, lam0)
        size, negative = jnp.abs(lam0), lam0 < 0
        moves = (size > 0) & (lam0 != 1) & (gamma != 0)
        start = jnp.where(moves, size, 0.25) ** (1 / self.layers)
        drive = 8 * jnp.sign(gamma) * jnp.abs(gamma) ** (1 / self.layers)
        clock = times[:, None] * drive[None]
        u = _invert(self.layers, start[None], negative[None], clock)
        curve = jnp.where(negative[None], -1, 1) * u**self.layers
        possible = (lam0 == 0) | (gamma == 0) | (jnp.sign(lam0) == jnp.sign(gamma))
        return jnp.where(
            moves[None] & possible[None], curve, jnp.where(possible, lam0, jnp.nan)[None]
        )

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each λ rises through `level`, or infinity if it never does.

        τ = [F(level^{1/L}) − F(λ(0)^{1/L})]/(8γ^{1/L}).
        """
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        gamma, L = self.gamma[modes], self.layers
        if L == 1:
            return BarlowTwins(gamma).step_times(lam0, level)
        crosses = (gamma > 0) & (lam0 > 0) & (lam0 <= level)
        begin = jnp.where(crosses, lam0, level) ** (1 / L)
        end = jnp.asarray(level, begin.dtype) ** (1 / L)
        span = _primitive(L, end, False) - _primitive(L, begin, False)
        return jnp.where(crosses, span / (8 * jnp.where(crosses, gamma, 1) ** (1 / L)), jnp.inf)

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return 0: no mode replaces a learned one."""
        return jnp.zeros((), self.gamma.dtype)

    def next_growth(self, learned: Numbers) -> Float[Array, ""]:
        """Return the growth rate of the fastest mode that is not yet learned, for one layer.

        Raises:
            NotKnownError: for two or more layers, where the rate depends on the start (`rate`).
        """
        return super().next_growth(learned) if self.layers == 1 else self.growth()[0]

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return 2 over the largest curvature at the solution of d dimensions.

        The curvatures of balanced layers are 4 (γ_i + γ_j) Σ_l γ_i^{−(L−l)/L} γ_j^{−(l−1)/L} of two
        learned modes, which is 8L γ^{1/L} for i = j. With a wide spectrum those of i ≠ j are the
        larger ones.
        """
        gamma, L = self.gamma, self.layers
        if L == 1:
            return BarlowTwins(gamma).max_stable_lr()
        d = gamma.shape[0] if self.d is None else min(int(self.d), gamma.shape[0])
        top = gamma[self.order[:d]]
        learned = top > 0
        safe = jnp.where(learned, top, 1)
        total = sum(
            safe[:, None] ** (-(L - layer) / L) * safe[None] ** (-(layer - 1) / L)
            for layer in range(1, L + 1)
        )
        curvature = 4 * (safe[:, None] + safe[None]) * total
        return 2 / jnp.max(jnp.where(learned[:, None] & learned[None], curvature, 0), initial=0)

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction by which descent crosses `level` later than the flow.

        A layer's singular value follows a' = f = 4γ a^{2L−1} (1 − λ), and descent, Euler's method,
        f − (lr/2) f f'. So it is late by (lr/2) ln(f(end)/f(start)), to first order in lr.
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        tau = self.step_times(lam0, level)
        lam0 = jnp.asarray(lam0)
        crosses = jnp.isfinite(tau) & (tau > 0)
        start = jnp.where(crosses, lam0, level)
        power = 1 - 1 / (2 * self.layers)
        slopes = power * (jnp.log(level) - jnp.log(start)) + jnp.log1p(-level) - jnp.log1p(-start)
        return jnp.where(crosses, lr / 2 * slopes / jnp.where(crosses, tau, 1), 0)


def multiply(layers: Any) -> Array:
    """Return the product W_L ... W_1 of a sequence (W_1, ..., W_L)."""
    product = jnp.asarray(layers[0])
    for layer in layers[1:]:
        product = jnp.asarray(layer) @ product
    return product


def _primitive(L: int, u: Array, negative: Any, beside: Array | None = None) -> Array:
    """Return F(u) = ∫ du/(u^L (1 ∓ u^L)), with the plus sign for negative λ.

    The integral of 1/(1 ∓ v^L) from 0 is −(1/L) Σ_k Re[ln(1 − ζ_k u)/ζ_k] over the roots ζ_k of ±1.

    Args:
        u: |λ|^{1/L} > 0.
        beside: −ln|1 − u|, if it is known more precisely than from u.
    """
    k = jnp.arange(L).reshape((L,) + (1,) * u.ndim)
    angle = jnp.pi * jnp.where(negative, 2 * k + 1, 2 * k) / L
    real = jnp.where(angle == 0, 1, 1 - u[None] * jnp.cos(angle))
    imaginary = u[None] * jnp.sin(angle)
    log = jnp.log(jnp.where(angle == 0, 1, real**2 + imaginary**2)) / 2
    terms = jnp.sin(angle) * jnp.arctan2(imaginary, real) - jnp.cos(angle) * log
    if beside is None:
        beside = -jnp.log(jnp.abs(jnp.where(u == 1, 1, 1 - u)))
    pole = jnp.where(negative, 0, beside)
    integral = (jnp.sum(jnp.where(angle == 0, 0, terms), axis=0) + pole) / L
    return jnp.where(negative, -1, 1) * integral - u ** (1 - L) / (L - 1)


def _invert(L: int, start: Array, negative: Array, clock: Array) -> Array:
    """Return u with F(u) = F(start) + clock, all [T, d] or [1, d].

    Bisection in x, with u = 1/(1 + e^{−x}) below 1, 1 + e^{−x} above 1, and e^x for negative λ; F
    increases with x.
    """
    above = ~negative & (start > 1)
    goal = _primitive(L, start, negative) + clock
    fixed = jax.lax.stop_gradient(goal)

    def evaluate(x: Array) -> tuple[Array, Array]:
        u = jnp.where(negative, jnp.exp(x), jnp.where(above, 1 + jnp.exp(-x), jax.nn.sigmoid(x)))
        return u, jnp.where(above, x, jax.nn.softplus(x))

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        u, beside = evaluate(middle)
        early = _primitive(L, u, negative, beside) < fixed
        return jnp.where(early, middle, low), jnp.where(early, high, middle)

    limit = -jnp.log(jnp.finfo(goal.dtype).tiny)
    bounds = (jnp.full_like(fixed, -limit), jnp.full_like(fixed, limit))
    low, high = jax.lax.fori_loop(0, 64, halve, bounds)
    u = jax.lax.stop_gradient(evaluate((low + high) / 2)[0])
    # du/dF = u^L (1 ∓ u^L); this term has the value 0 and carries the derivative.
    slope = u**L * (1 + jnp.where(negative, 1, -1) * u**L)
    return u + slope * (goal - fixed)
