"""The Chebyshev solver: second order, also for time-dependent fields, and stable up to 0.65 s²."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise.dynamics.stabilised import _TABLE, MAX_STAGES, RungeKuttaChebyshev


def _solve(field, y0, radius, dt, controller=None):
    solver = RungeKuttaChebyshev(radius=lambda t, y, args: radius)
    controller = diffrax.ConstantStepSize() if controller is None else controller
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver,
        0.0,
        1.0,
        dt,
        y0,
        stepsize_controller=controller,
        throw=False,
    )


@pytest.mark.parametrize("stiffness", [0.0, 10.0, 200.0])
def test_global_error_falls_with_the_square_of_the_step(stiffness, x64):
    def field(t, y, args):  # solved by y = exp(sin t); non-linear and non-autonomous
        return y * jnp.cos(t) - (y**2 - jnp.exp(2 * jnp.sin(t)))

    steps = np.array([20, 40, 80, 160])
    # The radius grows with the number of steps, so every step has the same number of stages.
    ends = [float(_solve(field, jnp.ones(1), stiffness * n, 1 / n).ys[0, 0]) for n in steps]
    errors = np.abs(np.array(ends) - np.exp(np.sin(1)))
    slopes = np.diff(np.log(errors)) / np.diff(np.log(1 / steps))
    np.testing.assert_allclose(slopes[-1], 2, atol=0.05)


@pytest.mark.parametrize("s", [2, 3, 5, 10, 30, MAX_STAGES])
def test_stability_polynomial_is_bounded_over_its_interval_and_matches_exp_to_second_order(s):
    def amplification(z):
        rows, before = _TABLE[s], 1.0
        y = 1 + rows[1, 0] * z
        for own, start, mu, nu, _ in rows[2 : s + 1]:
            before, y = y, 1 - mu - nu + mu * y + nu * before + own * z * y + start * z
        return y

    z = -np.linspace(0, (s**2 - 1) / 1.54, 4001)
    assert np.abs(amplification(z)).max() <= 1 + 1e-12
    small = 1e-3
    assert abs(amplification(small) - np.exp(small)) < small**3 / 5


def test_adaptive_steps_are_few_on_a_stiff_problem(x64):
    rates = jnp.array([1.0, 1e4])
    controller = diffrax.PIDController(rtol=1e-5, atol=1e-8)
    solution = _solve(
        lambda t, y, args: -rates * (y - jnp.cos(t)), jnp.ones(2), 1e4, None, controller
    )
    assert int(solution.stats["num_steps"]) < 300  # Dormand-Prince needs 1e4 / 3.3 steps
    exact = (1 * np.cos(1) + np.sin(1)) / 2 + (1 - 1 / 2) * np.exp(-1)
    np.testing.assert_allclose(solution.ys[0], [exact, np.cos(1) + np.sin(1) / 1e4], atol=2e-4)


def test_batches_agree_with_single_problems(x64):
    def end(scale):
        return _solve(lambda t, y, args: -scale * y, jnp.ones(3), scale, 0.1).ys[0]

    scales = jnp.array([1.0, 30.0, 200.0])
    one_by_one = jnp.stack([end(scale) for scale in scales])
    np.testing.assert_allclose(jax.vmap(end)(scales), one_by_one, rtol=1e-5, atol=1e-6)
