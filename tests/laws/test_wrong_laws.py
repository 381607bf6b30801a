"""Laws that contradict themselves are rejected or followed as they are, never silently replaced."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import dynamics, laws, losses
from tests import problems
from tests.laws import examples


def test_a_flow_uses_the_modes_of_its_law_and_a_changed_flow_is_integrated_whole(x64):
    p, A0 = problems.modes([1.0, 0.6, 0.3]), problems.gaussian((2, 3), 0.1)
    times = np.linspace(0, 1.5, 7)
    twice = laws.BarlowTwins(2 * p.gamma)
    np.testing.assert_allclose(
        dynamics.flow(p, A0, times, law=twice).eigenvalues,
        dynamics.flow(problems.modes([2.0, 1.2, 0.6]), A0, times).eigenvalues,
        rtol=1e-9,
    )

    class Decayed(laws.BarlowTwins):
        def rhs(self, A):
            return super().rhs(A) - 0.5 * A

    law = Decayed(p.gamma)
    assert law.contraction() is None
    lr = 1e-4
    steps = dynamics.descent(p, A0, lr, 15_000, law=law, record_at=(times[1:] / lr).round())
    flow = dynamics.flow(p, A0, times[1:], law=law)
    np.testing.assert_allclose(flow.eigenvalues, steps.eigenvalues, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rest": lambda self: jnp.full(3, jnp.nan)}, r"rest\(\): expected finite numbers"),
        ({"rest": lambda self: jnp.ones(2)}, r"rest\(\): expected 3 numbers, one for each mode"),
        ({"growth": lambda self: 4.0}, r"growth\(\): expected 3 numbers, one for each mode"),
        ({"growth": lambda self: self.gamma * jnp.inf}, r"growth\(\): expected finite numbers"),
    ],
)
def test_rates_and_final_values_that_are_not_finite_numbers_are_rejected_by_name(
    changes, message, x64
):
    p, A0 = problems.modes([1.0, 0.6, 0.3]), problems.gaussian((2, 3), 0.1)
    own = type("Own", (examples.Half,), changes | {"__module__": "mine"})
    with pytest.raises(ValueError, match=message):
        dynamics.flow(p, A0, [0.0, 1.0], law=lambda problem, d: own(problem.gamma))


def test_a_law_with_a_rest_of_zero_never_converges(x64):
    p, A0 = problems.modes([1.0, 0.6, 0.3]), problems.gaussian((2, 3), 0.1)
    own = type("Own", (examples.Half,), {"rest": lambda self: 0 * self.gamma})
    run = dynamics.flow(p, A0, [0.0, 1e-9], law=lambda problem, d: own(problem.gamma))
    assert run.result.name == "stopped"


def test_unsorted_modes_are_rejected_if_the_law_follows_gamma(x64):
    p = problems.modes([1.0, 0.6, 0.3])
    shuffled = dataclasses.replace(p, gamma=p.gamma[::-1])
    with pytest.raises(ValueError, match="gamma: expected modes in descending order"):
        dynamics.flow(shuffled, problems.gaussian((2, 3), 0.1), [0.0, 1.0])


def test_a_law_with_another_order_can_be_jitted(x64):
    p, A0 = problems.modes([1.0, 0.6, 0.3]), jnp.asarray(problems.gaussian((2, 3), 0.1))
    own = type("Own", (examples.Half,), {"follows_gamma": False})

    def end(A):
        return dynamics.flow(p, A, jnp.linspace(0.0, 1.0, 3), law=lambda q, d: own(q.gamma))

    np.testing.assert_allclose(jax.jit(end)(A0).eigenvalues, end(A0).eigenvalues, rtol=1e-6)


def test_convergence_is_judged_by_the_law_whatever_constant_a_loss_has(x64):
    p, A0 = problems.modes([1.0, 0.6, 0.3]), problems.gaussian((2, 3), 1e-3)

    def shifted(z1, z2):
        return losses.barlow_twins_unnormalised(z1, z2) - 100

    law = lambda q, d: examples.Half(q.gamma)  # noqa: E731
    short, long = (dynamics.descent(p, A0, 0.02, n, law=law, loss=shifted) for n in (20, 2000))
    assert (short.result.name, long.result.name) == ("stopped", "converged")
    with pytest.raises(ValueError, match="loss: expected a function that returns one real number"):
        dynamics.descent(p, A0, 0.02, 5, loss=lambda z1, z2: z1 - z2)
