"""What a law is: how the modes of a linear model grow under one loss, in one form for all solvers.

A law of a new loss is a frozen dataclass that derives from `Law` and says four things: `growth`,
`rest`, `objective`, and `unit` if its observable is not C. The rest follows numerically, and every
solver takes it, as in `dynamics.flow(problem, A0, times, law=lambda p, d: MyLaw(p.gamma))`.
docs/extending.md shows such a law and a method with one, each in one file.

Override `eigenvalues` and `step_times` where a closed form is known, `rhs` where the gradient is
cheaper by hand, and `max_stable_lr` where a limit is known.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stepwise import _check
from stepwise.laws import numeric, tree
from stepwise.types import Numbers, Real, Whole

FLOW = {"rhs", "objective", "unit", "measure"}
"""What the flow of a law follows from."""


class NotKnownError(ValueError):
    """A law was asked for something that its loss does not have, or that nobody has derived."""


class Law:
    """How modes grow under one loss: the contract between laws and solvers.

    `growth`, `grows`, `rest` and `unit` are in the order of the modes given. Entry i of `lam0`,
    `eigenvalues` and `step_times` belongs to mode `order[i]`. λ_j is the eigenvalue of the
    observable along mode j, and t = learning rate × step.

    Subclasses are frozen dataclasses and become trees of JAX by themselves (do not register them):
    arrays and Python floats are leaves, everything else is static and has to be hashable.

    Attributes:
        domain: where the law is exact, in words.
        observable: the matrix whose eigenvalues the law describes: "C", "covariance",
            "covariance / T", "whitened cross product" or "W Wᵀ".
        formula: the loss, for the label of an axis.
        follows_gamma: whether modes always grow in the order of γ, so that a problem may be cut to
            its largest modes.
        rotates: whether the loss is blind to rotations of the embedding; a generic start then acts
            as an aligned one (`effective_start`).
    """

    domain: ClassVar[str] = "not said"
    observable: ClassVar[str] = "C"
    formula: ClassVar[str] = ""
    follows_gamma: ClassVar[bool] = False
    rotates: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Make the subclass a tree of JAX.

        A flow that a subclass changes no longer has the inherited `contraction`, unless it says so.
        """
        super().__init_subclass__(**options)
        if "contraction" not in vars(cls) and FLOW & vars(cls).keys():
            cls.contraction = Law.contraction  # type: ignore[method-assign]
        jax.tree_util.register_pytree_with_keys(
            cls, tree.with_keys, partial(tree.unflatten, cls), tree.flatten
        )

    @classmethod
    def from_problem(cls, problem: Any, d: Whole) -> "Law":
        """The law of a problem: what `law=` calls when it is given the class itself.

        Raises:
            ValueError: this law needs more than the problem, such as a temperature.
        """
        name = cls.__name__
        raise ValueError(
            f"law: expected a function of (problem, d), such as lambda problem, d: "
            f"{name}(problem.gamma, ...), or a class with a classmethod "
            f"from_problem(cls, problem, d), "
            f"received the class {name} without one"
        )

    # What a law has to say.

    def growth(self) -> Float[Array, " r"]:
        """Rate [r] at which each λ_j grows near the small start, d ln λ_j/dt."""
        raise NotKnownError(self._lacks("growth", "a rate near a small start"))

    def rest(self) -> Float[Array, " r"]:
        """λ_j at the end [r], each mode taken alone; 0 for one that does not grow."""
        raise NotKnownError(self._lacks("rest", "known values at the end"))

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """The loss of the linear model with mode coordinates A [d, r]."""
        raise NotKnownError(self._lacks("objective", "a loss of mode coordinates"))

    def unit(self) -> Float[Array, " r"]:
        """λ_j/s_j² [r], the observable of a row of unit size along each mode: γ where it is C."""
        gamma = getattr(self, "gamma", None)
        if gamma is None or self.observable != "C":
            raise NotKnownError(self._lacks("unit", f"a size of its observable {self.observable}"))
        return jnp.asarray(gamma)

    # What follows from it, and may be overridden by what is faster or known exactly.

    @property
    def order(self) -> Int[Array, " r"]:
        """Modes [r] from the first to grow to the last."""
        return jnp.argsort(-jnp.asarray(self.growth()))

    def grows(self) -> Bool[Array, " r"]:
        """Which modes grow from a small start [r]."""
        return jnp.asarray(self.growth() > 0)

    def final_modes(self, d: Whole) -> Int[Array, " k"]:
        """The modes [min(d, r)] that d dimensions hold at the end, from the largest λ down.

        Those of the largest rest, which need not be those that grew first (`takeover`).
        """
        order = self.order
        return order[jnp.argsort(-jnp.asarray(self.rest())[order])][:d]

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """The exact flow dA/dt = −∂L/∂A [d, r]."""
        return -jax.grad(self.objective)(A)

    def measure(self, A: Numbers) -> Float[Array, "d d"]:
        """The observable [d, d] of mode coordinates A [d, r]."""
        return (A * self.unit()) @ jnp.swapaxes(jnp.asarray(A), -1, -2)

    def contraction(self) -> float | None:
        """κ where the flow is κ (1 − C) A diag(γ), C = A diag(γ) Aᵀ the observable, or None.

        `dynamics.flow` then leaves out modes that cannot matter, skips the linear phase and takes
        stabilised steps, all with bounds that are proven for this form alone.
        """
        return None

    def loss_of(self, eigenvalues: Numbers) -> Any:
        """L(t) [T] from eigenvalues [T, d] of the observable, an array of JAX or of NumPy; None
        where they do not determine it.
        """
        return None

    def aligned_start(self, lam: Numbers, modes: Numbers | None = None) -> Float[Array, "d r"]:
        """A [d, r] whose row i lies along mode modes[i] (order[i] by default) with eigenvalue
        lam[i].
        """
        lam, unit = jnp.asarray(lam), jnp.asarray(self.unit())
        at = jnp.asarray(self.order[: lam.shape[0]] if modes is None else modes)
        square = jnp.where(lam == 0, 0, lam / jnp.where(unit[at] == 0, 1, unit[at]))
        size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        rows = jnp.zeros((lam.shape[0], unit.shape[0]), jnp.result_type(lam, unit))
        return rows.at[jnp.arange(lam.shape[0]), at].set(size.astype(rows.dtype))

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """λ(t) from an aligned start, in the order of growth (not sorted).

        By default `rhs` is integrated from the aligned start (relative tolerance 1e-9 in float64,
        1e-5 in float32); a law with a closed form overrides it.

        Args:
            times: t [T], learning rate × step.
            lam0: λ(0) [d], d ≤ r.

        Raises:
            ValueError: lam0 is not a vector of at most r finite numbers.
        """
        times, lam0, _ = self._arguments(times, lam0)
        return numeric.integrate(self, times, lam0)

    def amplitude(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """s_j(t)/s_j(0) [T, d], 1 where λ_j(0) = 0."""
        times, lam0, _ = self._arguments(times, lam0)
        ratio = self.eigenvalues(times, lam0) / jnp.where(lam0 == 0, 1, lam0)
        return jnp.sqrt(jnp.where(lam0 == 0, 1, jnp.maximum(ratio, 0)))

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """When λ rises through level · rest [d]; infinite where it never does.

        By default found by repeated refinement of a grid of times, to rounding, and corrected once
        by Newton's method, through which it can be differentiated.
        """
        _, lam0, modes = self._arguments(jnp.zeros(1), lam0)
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        goal = level * jnp.asarray(self.rest())[modes]
        crosses = self.grows()[modes] & (lam0 > 0) & (lam0 <= goal)
        return numeric.crossing(self, lam0, goal, jnp.asarray(self.growth())[modes], crosses)

    def loss(self, times: Numbers, lam0: Numbers) -> Float[Array, " T"]:
        """L(t) [T] over the d modes of lam0: the objective along the aligned solution."""
        curves = self.eigenvalues(times, lam0)
        known = self.loss_of(curves)
        return self.losses(curves) if known is None else known

    def losses(self, curves: Numbers, rows: Whole | None = None) -> Float[Array, " T"]:
        """The objective [T] of aligned states with eigenvalues `curves` [T, d], on `rows` ≥ d
        rows.
        """
        more = 0 if rows is None else int(rows) - curves.shape[1]
        return jax.lax.map(
            lambda lam: self.objective(jnp.pad(self.aligned_start(lam), ((0, more), (0, 0)))),
            curves,
        )

    def lowest_loss(self, d: Whole) -> Float[Array, ""]:
        """The loss that d dimensions end at: `final_modes(d)` at rest."""
        modes = self.final_modes(d)
        rows = self.aligned_start(self.rest()[modes], modes)
        return self.objective(jnp.pad(rows, ((0, int(d) - rows.shape[0]), (0, 0))))

    def has_converged(self, loss: Numbers, d: Whole) -> Bool[Array, ""]:
        """Whether a loss has come down to `lowest_loss(d)`, to 1% of what learning one mode
        gains.
        """
        floor = self.lowest_loss(d)
        count = jnp.minimum(d, jnp.sum(self.grows()))
        gain = self.objective(jnp.zeros((int(d), self.unit().shape[0]), floor.dtype)) - floor
        near = loss - floor < 1e-2 * jnp.where(count > 0, gain / jnp.maximum(count, 1), 1)
        return near & ((count == 0) | (gain > 0))  # no gain: the law's rest is not where it ends

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Rate at which mode k grows in the row that holds mode j at rest, d ln(variance)/dt.

        Positive where k replaces j in the end; from `rhs` of one row, linearised there.
        """
        modes = np.array([j])
        A = self.aligned_start(self.rest()[modes], modes)
        side = jnp.zeros_like(A).at[0, k].set(1)
        return 2 * jax.jvp(self.rhs, (A,), (side,))[1][0, k]

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Rate of the fastest direction that is left when some modes are learned, by deflation.

        `rhs` is linearised in one more row, of zeros, beside the learned ones.

        Args:
            learned: the modes that are at rest, by number, or the rows [k, r] that hold them.
        """
        rows = np.asarray(learned)
        if rows.ndim < 2:
            modes = rows.astype(int)
            held = self.aligned_start(self.rest()[modes], modes)
        else:
            held = jnp.asarray(rows)
        A = jnp.concatenate([held, jnp.zeros((1, self.unit().shape[0]))])

        def spare(row: Array) -> Array:
            return self.rhs(A.at[-1].set(row))[-1]

        values = np.linalg.eigvals(np.asarray(jax.jacfwd(spare)(A[-1])))
        return jnp.asarray(2 * values.real.max(), A.dtype)

    def max_stable_lr(self) -> Float[Array, ""]:
        """The learning rate below which gradient descent is stable at the solution.

        Raises:
            NotKnownError: none is known for this loss.
        """
        raise NotKnownError(self._lacks("max_stable_lr", "a known stable learning rate"))

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """By which fraction descent crosses level · rest later than the flow, to order lr.

        By default that of the plateau alone, lr · growth/4: a step multiplies an amplitude by
        1 + lr g/2 where the flow has e^{lr g/2}. Zero where it never crosses.
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        _, lam0, modes = self._arguments(jnp.zeros(1), lam0)
        crosses = self.grows()[modes] & (lam0 > 0) & (lam0 < level * self.rest()[modes])
        return jnp.where(crosses, lr * self.growth()[modes] / 4, 0)

    def _arguments(self, times: Numbers, lam0: Numbers) -> tuple[Array, Array, Array]:
        """Times, λ(0) and the modes that its entries belong to."""
        times = jnp.asarray(_check.real_array("times", times, ndim=1))
        lam0 = jnp.asarray(_check.real_array("lam0", lam0, ndim=1))
        order = self.order
        r = order.shape[0]
        expected = f"at most {r} entries, one a mode of gamma"
        _check.require(lam0.shape[0] <= r, "lam0", expected, lam0)
        return times, lam0, order[: lam0.shape[0]]

    def _lacks(self, name: str, what: str) -> str:
        return f"{name}: expected a law with {what}, received {type(self).__name__}"


LawOf: TypeAlias = Any
"""What `law=` takes: a function of (problem, d), a class whose law needs the problem alone, a law,
or None for `laws.DEFAULT`; the door checks it (`laws.law_of`).
"""


class Modes(NamedTuple):
    """What a law asks of a problem, for use where there is no problem."""

    gamma: Numbers
    sigma: Numbers | None = None
    lowest: Numbers | None = None


def cast(law: Law, dtype: Any) -> Law:
    """The law with its arrays in another precision."""

    def converted(leaf: Any) -> Any:
        array = isinstance(leaf, jax.Array | np.ndarray)
        return jnp.asarray(leaf, dtype) if array and leaf.dtype != dtype else leaf

    return jax.tree.map(converted, law)
