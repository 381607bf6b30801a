"""The base class of laws: how the modes of a linear model grow under one loss.

To add the law of a new loss, derive a frozen dataclass from `Law` and define `growth`, `rest`,
`objective`, and `unit` if its observable is not C. Everything else then follows numerically, and
every solver accepts the law: `dynamics.flow(problem, A0, times, law=lambda p, d: MyLaw(p.gamma))`.
docs/extending.md shows a complete law, and a method with its law, each in one file.

Override `eigenvalues` and `step_times` if a closed form is known, `rhs` if a hand-written gradient
is cheaper, and `max_stable_lr` if a limit is known.
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
from stepwise.laws.description import Description
from stepwise.laws.generic import GenericStart
from stepwise.types import Numbers, Real, Whole

FLOW = {"rhs", "objective", "unit", "measure"}
"""The methods that determine the flow of a law."""


class NotKnownError(ValueError):
    """A property that a law does not have, or that is not known for its loss."""


class Law(Description, GenericStart):
    """How modes grow under one loss: the interface between laws and solvers.

    λ_j is the eigenvalue of the observable along mode j, and t = learning rate × step. `growth`,
    `grows`, `rest` and `unit` return one entry for each mode, in the order of the problem's modes.
    Entry i of `lam0`, `eigenvalues` and `step_times` belongs to mode `order[i]`.

    Subclasses are frozen dataclasses. They are registered as JAX pytrees automatically (do not
    register them again): arrays and Python floats are leaves, and everything else is static and
    must be hashable.

    Attributes:
        follows_gamma: whether modes always grow in the order of γ. If so, a problem may be
            truncated to its largest modes.
        centred: whether the law needs views without a mean, because its loss does not depend on the
            mean of the embeddings.
        gaussian: "no", or what the growth beside learned modes needs of the views: "independent"
            squares of different modes, or "normal" modes as well.
        rotates: whether the loss is invariant under rotations of the embedding. If so, a generic
            start acts as an aligned one (`effective_start`).
        domain, observable, formula and others: descriptions in words (`Description`).
    """

    follows_gamma: ClassVar[bool] = False
    centred: ClassVar[bool] = False
    gaussian: ClassVar[str] = "no"
    rotates: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Register the subclass as a JAX pytree.

        A subclass that changes the flow does not inherit `contraction`, because it describes the
        flow of the parent class.
        """
        super().__init_subclass__(**options)
        if "contraction" not in vars(cls) and FLOW & vars(cls).keys():
            cls.contraction = Law.contraction  # type: ignore[method-assign]
        jax.tree_util.register_pytree_with_keys(
            cls, tree.with_keys, partial(tree.unflatten, cls), tree.flatten
        )

    @classmethod
    def from_problem(cls, problem: Any, d: Whole) -> "Law":
        """Build the law of a problem. Solvers call this if `law=` is the class itself.

        Raises:
            ValueError: if the class does not define `from_problem`, for example because its law
                needs a temperature.
        """
        name = cls.__name__
        raise ValueError(
            f"law: expected a function of (problem, d), such as lambda problem, d: "
            f"{name}(problem.gamma, ...), or a class with a classmethod "
            f"from_problem(cls, problem, d), "
            f"received the class {name} without one"
        )

    # Every law defines these.

    def growth(self) -> Float[Array, " r"]:
        """Return the growth rate d ln λ_j/dt of each mode near a small start [r]."""
        raise NotKnownError(self._lacks("growth", "a growth rate near a small start"))

    def rest(self) -> Float[Array, " r"]:
        """Return the final λ_j of each mode on its own [r], 0 for a mode that does not grow."""
        raise NotKnownError(self._lacks("rest", "known final eigenvalues"))

    def objective(self, A: Numbers) -> Float[Array, ""]:
        """Return the loss of the linear model with mode coordinates A [d, r]."""
        raise NotKnownError(self._lacks("objective", "a loss as a function of mode coordinates"))

    def unit(self) -> Float[Array, " r"]:
        """Return λ_j/s_j² [r], the observable of a unit row along each mode: γ_j if it is C."""
        gamma = getattr(self, "gamma", None)
        if gamma is None or self.observable != "C":
            raise NotKnownError(
                self._lacks("unit", f"the scale of its observable {self.observable}")
            )
        return jnp.asarray(gamma)

    # These follow from the ones above. A subclass may override them by faster or exact versions.

    @property
    def basis(self) -> Float[Array, "r r"] | None:
        """The modes of this law as orthonormal rows, in the mode coordinates of the problem [r, r].

        None if they are the modes of the problem themselves, as they are if Σ and Γ have a common
        eigenbasis.
        """
        return None

    def to_modes(self, A: Numbers) -> Float[Array, "d r"]:
        """Return mode coordinates A [d, r] of the problem in the modes of this law."""
        return jnp.asarray(A) if self.basis is None else jnp.asarray(A) @ self.basis.T

    def from_modes(self, rows: Numbers) -> Float[Array, "d r"]:
        """Return rows [d, r] in the modes of this law in the mode coordinates of the problem."""
        return jnp.asarray(rows) if self.basis is None else jnp.asarray(rows) @ self.basis

    @property
    def order(self) -> Int[Array, " r"]:
        """The modes [r] in the order in which they grow, fastest first."""
        return jnp.argsort(-jnp.asarray(self.growth()))

    def grows(self) -> Bool[Array, " r"]:
        """Return which modes grow from a small start [r]."""
        return jnp.asarray(self.growth() > 0)

    def final_modes(self, d: Whole) -> Int[Array, " k"]:
        """Return the modes [min(d, r)] that d dimensions hold at the end, largest λ first.

        These are the modes with the largest final values. They need not be those that grew first,
        because a later mode may replace an earlier one (`takeover`).
        """
        order = self.order
        return order[jnp.argsort(-jnp.asarray(self.rest())[order])][:d]

    def rhs(self, A: Numbers) -> Float[Array, "d r"]:
        """Return the exact flow dA/dt = −∂L/∂A [d, r]."""
        return -jax.grad(self.objective)(A)

    def measure(self, A: Numbers) -> Float[Array, "d d"]:
        """Return the observable [d, d] of mode coordinates A [d, r]."""
        A = jnp.asarray(A)
        unit = jnp.expand_dims(jnp.asarray(self.unit()), tuple(range(A.ndim - 1)))
        return (A * unit) @ jnp.swapaxes(A, -1, -2)

    def contraction(self) -> float | None:
        """Return κ if the flow is κ (1 − C) A diag(γ) with observable C = A diag(γ) Aᵀ, else None.

        For such a flow, `dynamics.flow` leaves out modes that cannot matter, skips the linear phase
        and takes stabilised steps. Its error bounds are proven for this form only.
        """
        return None

    def loss_of(self, eigenvalues: Numbers) -> Any:
        """Return the loss [T] as a function of the observable's eigenvalues [T, d].

        The eigenvalues are a JAX or a NumPy array. Returns None if they do not determine the loss.
        """
        return None

    def aligned_start(self, lam: Numbers, modes: Numbers | None = None) -> Float[Array, "d r"]:
        """Return A [d, r] whose row i lies along one mode and has eigenvalue lam[i].

        Row i lies along mode modes[i], by default order[i].
        """
        lam, unit = jnp.asarray(lam), jnp.asarray(self.unit())
        columns = jnp.asarray(self.order[: lam.shape[0]] if modes is None else modes)
        square = jnp.where(lam == 0, 0, lam / jnp.where(unit[columns] == 0, 1, unit[columns]))
        size = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        rows = jnp.zeros((lam.shape[0], unit.shape[0]), jnp.result_type(lam, unit))
        return self.from_modes(
            rows.at[jnp.arange(lam.shape[0]), columns].set(size.astype(rows.dtype))
        )

    def eigenvalues(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return λ(t) from an aligned start, in the order of growth (not sorted by size).

        The default integrates `rhs` from the aligned start, with a relative tolerance of 1e-9 in
        float64 and 1e-5 in float32. A law with a closed form overrides this method.

        Args:
            times: t [T], learning rate × step.
            lam0: λ(0) [d], d ≤ r.

        Raises:
            ValueError: if lam0 is not a vector of at most r finite numbers.
        """
        times, lam0, _ = self.check_arguments(times, lam0)
        return numeric.integrate(self, times, lam0)

    def amplitude(self, times: Numbers, lam0: Numbers) -> Float[Array, "T d"]:
        """Return s_j(t)/s_j(0) [T, d], and 1 where λ_j(0) = 0."""
        times, lam0, _ = self.check_arguments(times, lam0)
        ratio = self.eigenvalues(times, lam0) / jnp.where(lam0 == 0, 1, lam0)[None]
        return jnp.sqrt(jnp.where(lam0[None] == 0, 1, jnp.maximum(ratio, 0)))

    def step_times(self, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return when each λ rises through level · rest [d], or infinity if it never does.

        The default refines a grid of times until rounding limits it, and then takes one step of
        Newton's method, through which the result can be differentiated.
        """
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        _check.require(0 < level < 1, "level", "a number between 0 and 1", level)
        goal = level * jnp.asarray(self.rest())[modes]
        crosses = self.grows()[modes] & (lam0 > 0) & (lam0 <= goal)
        return numeric.crossing(self, lam0, goal, jnp.asarray(self.growth())[modes], crosses)

    def loss(self, times: Numbers, lam0: Numbers) -> Float[Array, " T"]:
        """Return the loss [T] along the aligned solution over the d modes of lam0."""
        curves = self.eigenvalues(times, lam0)
        loss = self.loss_of(curves)
        return self.losses(curves) if loss is None else loss

    def losses(self, curves: Numbers, rows: Whole | None = None) -> Float[Array, " T"]:
        """Return the objective [T] of aligned states with eigenvalues `curves` [T, d].

        The states are padded with zeros to `rows` ≥ d rows, if given.
        """
        extra = 0 if rows is None else int(rows) - curves.shape[1]
        return jax.lax.map(
            lambda lam: self.objective(jnp.pad(self.aligned_start(lam), ((0, extra), (0, 0)))),
            curves,
        )

    def lowest_loss(self, d: Whole) -> Float[Array, ""]:
        """Return the final loss of d dimensions, with the modes `final_modes(d)` at rest."""
        modes = self.final_modes(d)
        rows = self.aligned_start(self.rest()[modes], modes)
        return self.objective(jnp.pad(rows, ((0, int(d) - rows.shape[0]), (0, 0))))

    def has_converged(self, loss: Numbers, d: Whole) -> Bool[Array, ""]:
        """Return whether a loss is within 1% of one mode's gain above `lowest_loss(d)`.

        A mode's gain is what learning it takes off the loss, averaged over the modes that d
        dimensions learn.
        """
        floor = self.lowest_loss(d)
        count = jnp.minimum(d, jnp.sum(self.grows()))
        gain = self.objective(jnp.zeros((int(d), self.unit().shape[0]), floor.dtype)) - floor
        near = loss - floor < 1e-2 * jnp.where(count > 0, gain / jnp.maximum(count, 1), 1)
        # Without a gain, `rest` does not describe the end of training.
        return near & ((count == 0) | (gain > 0))

    def takeover(self, j: Whole, k: Whole) -> Float[Array, ""]:
        """Return the rate d ln(variance)/dt at which mode k grows in a row that holds mode j.

        The row is at rest on mode j, and `rhs` is linearised there. If the rate is positive, mode k
        eventually replaces mode j.
        """
        modes = np.array([j])
        A = self.aligned_start(self.rest()[modes], modes)
        side = self.from_modes(jnp.zeros_like(A).at[0, k].set(1))
        return 2 * self.to_modes(jax.jvp(self.rhs, (A,), (side,))[1])[0, k]

    def next_growth(self, learned: Sequence[int] | Numbers) -> Float[Array, ""]:
        """Return the growth rate of the fastest direction that is not yet learned.

        `rhs` is linearised in an additional row of zeros, next to the learned rows (deflation).

        Args:
            learned: the modes at rest, as indices [k] or as rows [k, r] of mode coordinates.
        """
        rows = np.asarray(learned)
        if rows.ndim < 2:
            modes = rows.astype(int)
            resting = self.aligned_start(self.rest()[modes], modes)
        else:
            resting = jnp.asarray(rows)
        A = jnp.concatenate([resting, jnp.zeros((1, self.unit().shape[0]))])

        def flow_of_last(row: Array) -> Array:
            return self.rhs(A.at[-1].set(row))[-1]

        values = np.linalg.eigvals(np.asarray(jax.jacfwd(flow_of_last)(A[-1])))
        return jnp.asarray(2 * values.real.max(), A.dtype)

    def max_stable_lr(self) -> Float[Array, ""]:
        """Return the learning rate below which gradient descent is stable at the solution.

        Raises:
            NotKnownError: if no limit is known for this loss.
        """
        raise NotKnownError(self._lacks("max_stable_lr", "a known stable learning rate"))

    def descent_delay(self, lr: Numbers, lam0: Numbers, level: Real = 0.5) -> Float[Array, " d"]:
        """Return the fraction by which descent crosses level · rest later than the flow.

        The delay is relative to the flow's crossing time, to first order in lr. The default is the
        delay of the plateau alone, lr · growth/4: one step multiplies an amplitude by 1 + lr g/2,
        and the flow by e^{lr g/2}. It is 0 for a mode that never crosses.
        """
        lr = jnp.asarray(_check.real_array("lr", lr, ndim=0))
        _, lam0, modes = self.check_arguments(jnp.zeros(1), lam0)
        crosses = self.grows()[modes] & (lam0 > 0) & (lam0 < level * self.rest()[modes])
        return jnp.where(crosses, lr * self.growth()[modes] / 4, 0)

    def check_arguments(
        self, times: Numbers, lam0: Numbers
    ) -> tuple[Float[Array, " T"], Float[Array, " d"], Int[Array, " d"]]:
        """Check the arguments of `eigenvalues`; return them with the modes that lam0 belongs to.

        A subclass that overrides `eigenvalues` or `step_times` calls this first.

        Args:
            times: t [T], learning rate × step.
            lam0: λ(0) [d], d ≤ r.

        Returns:
            times and lam0 as arrays, and the modes [d] that the entries of lam0 belong to, the
            first d of `order`.

        Raises:
            ValueError: if times or lam0 is not a vector of finite numbers, or lam0 has more than r
                entries.
        """
        times = jnp.asarray(_check.real_array("times", times, ndim=1))
        lam0 = jnp.asarray(_check.real_array("lam0", lam0, ndim=1))
        order = self.order
        r = order.shape[0]
        expected = f"at most {r} entries, one for each mode of gamma"
        _check.require(lam0.shape[0] <= r, "lam0", expected, lam0)
        return times, lam0, order[: lam0.shape[0]]

    def _lacks(self, name: str, what: str) -> str:
        """Return the message of a property that this law does not define."""
        return f"{name}: expected a law with {what}, received {type(self).__name__}"


LawOf: TypeAlias = Any
"""The values that `law=` accepts: a function (problem, d) -> Law, a class of law with
`from_problem`, a law, or None for `laws.DEFAULT`. `laws.law_of` checks and resolves them.
"""


class Modes(NamedTuple):
    """The attributes of a problem that a law reads, for use without a problem.

    Attributes:
        gamma: eigenvalues γ of the modes [r].
        sigma: second moment of single views in mode coordinates [r, r], if a law needs it.
        lowest: the smallest eigenvalue of the data.
    """

    gamma: Numbers
    sigma: Numbers | None = None
    lowest: Numbers | None = None


def cast(law: Law, dtype: Any) -> Law:
    """Return the law with its arrays converted to another precision."""

    def convert(leaf: Any) -> Any:
        array = isinstance(leaf, jax.Array | np.ndarray)
        return jnp.asarray(leaf, dtype) if array and leaf.dtype != dtype else leaf

    return jax.tree.map(convert, law)
