"""Laws of single modes where Γ and Σ have no common eigenbasis."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import solve_ivp

from stepwise import growth, laws, losses, problem
from stepwise.laws.frame import Framed
from tests import problems

R, D, N = 5, 3, 40
T, OFFSET = 0.05, 2.0
pytestmark = pytest.mark.usefixtures("x64")


def pairs(mix=0.3, seed=0, smallest=0.1):
    """Views a + b and a − b in both orders, whose Γ and Σ do not commute, without a mean."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, N, R))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    a = a * np.sqrt(np.geomspace(1, smallest, R))
    b = b * 0.4 @ (np.eye(R) + mix * rng.normal(size=(R, R)))
    return np.concatenate([a + b, a - b]), np.concatenate([a - b, a + b])


def lejepa(z1, z2):
    turned = np.linalg.qr(np.random.default_rng(3).normal(size=(40, D, D)))[0]
    return losses.lejepa(z1, z2, slices=turned.reshape(-1, D))


def cosine(z1, z2):
    b = jnp.zeros(D).at[-1].set(OFFSET)
    return losses.simclr(z1 + b[None], z2 + b[None], temperature=T)


CASES = {
    "VICReg": (losses.vicreg, lambda p: laws.VICReg(p.gamma, p.sigma, D, n=p.n_pairs)),
    "LeJEPA": (lejepa, lambda p: laws.LeJEPA(p.gamma, p.sigma, D, n=p.n_pairs)),
    "SimCLR": (
        cosine,
        lambda p: laws.SimCLR(p.gamma, p.sigma, T, offset=OFFSET, n=p.n_pairs, d=D),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_growth_rates_and_modes_are_those_of_the_loss(name):
    p = problem.from_views(*pairs(), center="pooled")
    loss, build = CASES[name]
    law = build(p)
    assert law.basis is not None
    flow = growth.rates(loss, p, d=D, modes=R, scale=1e-7 if name == "VICReg" else 1e-4)
    np.testing.assert_allclose(law.growth()[law.order], flow.rates, rtol=1e-4)
    for j in range(R):
        row = np.linalg.svd(flow.directions[j])[2][0]
        assert abs(row @ np.asarray(law.basis)[law.order[j]]) > 1 - 1e-5


@pytest.mark.parametrize("ema", [None, 0.7])
def test_the_first_mode_of_dino_solves_the_quadratic_eigenproblem(ema):
    p = problem.from_views(*pairs(), center="pooled")
    law = laws.DINO(p.gamma, p.sigma, 4, ema=ema)
    pull, drive = p.sigma / (4 * 0.1**2), np.diag(p.gamma) / (4 * 0.1 * 0.04)
    if ema is None:
        flow = drive - pull
    else:  # w' = drive v − pull w, v' = ema (w − v)
        flow = np.block([[-pull, drive], [ema * np.eye(R), -ema * np.eye(R)]])
    assert float(law.growth().max()) == pytest.approx(2 * np.linalg.eigvals(flow).real.max(), 1e-9)


def test_the_modes_of_byol_are_those_of_its_growth_operator():
    p = problem.from_views(*pairs(), center="pooled")
    law = laws.BYOL(p.gamma, p.sigma, 0.3)
    operator = 4 * 0.3 * (np.diag(p.gamma) - 0.3 * np.asarray(p.sigma))
    np.testing.assert_allclose(np.sort(law.growth()), 2 * np.linalg.eigvalsh(operator), rtol=1e-10)
    x, x2 = np.split(np.asarray(p.features), 2)
    rng = np.random.default_rng(1)
    weights = {"encoder": rng.normal(size=(D, R)), "predictor": rng.normal(size=(D, D))}

    def value(w):
        z1, z2 = x @ w["encoder"].T, x2 @ w["encoder"].T
        P = w["predictor"].T
        return losses.byol(z1 @ P, z2 @ P, z1, z2, normalise=False)

    slopes = jax.grad(value)(weights)
    flow = law.rhs_tree(weights | {"target": weights["encoder"]})
    for part in weights:
        np.testing.assert_allclose(flow[part], -slopes[part], atol=1e-10)


def integrated(law, A0, until):
    """Times and eigenvalues of the observable along the exact flow."""
    shape = A0.shape
    slope = jax.jit(lambda A: law.rhs(A.reshape(shape)).ravel())
    measure = jax.jit(lambda A: jnp.linalg.eigvalsh(law.measure(A.reshape(shape)))[::-1])
    run = solve_ivp(
        lambda t, A: np.asarray(slope(A)), (0, until), np.ravel(A0), "LSODA", rtol=1e-8, atol=1e-12
    )
    return run.t, np.stack([np.asarray(measure(A)) for A in run.y.T])


def crossing(times, curve, goal):
    i = int(np.argmax(curve >= goal))
    assert i > 0
    return times[i - 1] + (goal - curve[i - 1]) / (curve[i] - curve[i - 1]) * (
        times[i] - times[i - 1]
    )


@pytest.mark.parametrize("name", ["LeJEPA", "SimCLR"])
def test_step_times_are_off_by_about_what_is_said_to_be_neglected(name):
    p = problem.from_views(*pairs(smallest=0.01), center="pooled")
    law = CASES[name][1](p)
    lam0 = np.full(2, 1e-8)
    A0 = np.pad(law.aligned_start(lam0), ((0, D - 2), (0, 0)))
    tau = np.asarray(law.step_times(lam0))
    times, curves = integrated(law, A0, 1.5 * tau[1])
    goals = np.asarray(law.rest())[law.order[:2]] / 2
    measured = [crossing(times, curves[:, j], goals[j]) for j in range(2)]
    error = np.abs(measured / tau - 1)
    estimate = Framed.neglected(law, tau, D)  # without SimCLR's own approximation
    assert error[0] < 0.01 and estimate[0] == 0
    assert error[1] > 0.03 and 0.5 < estimate[1] / error[1] < 2


def test_nothing_is_neglected_with_a_common_eigenbasis():
    gamma, sigma = np.array([0.9, 0.5, 0.2]), np.array([1.0, 0.8, 0.7])
    law, same = (laws.LeJEPA(gamma, s, 2) for s in (sigma, np.diag(sigma)))
    assert law.basis is None and same.basis is None
    assert not law.neglected(law.step_times(np.full(2, 1e-8)), 2).any()
    near = np.diag(sigma) + 1e-6 * problems.gaussian((3, 3), 1.0)
    close = laws.LeJEPA(gamma, (near + near.T) / 2, 2)
    assert close.basis is not None
    tau = np.asarray(close.step_times(np.full(2, 1e-8)))
    np.testing.assert_allclose(tau, law.step_times(np.full(2, 1e-8)), rtol=1e-4)
    assert (close.neglected(tau, 2) < 1e-4).all()


@pytest.mark.parametrize("ema", [None, 5.0])
def test_the_second_step_of_byol_is_off_by_about_what_is_said_to_be_neglected(ema):
    p = problem.from_views(*pairs(mix=0.1, smallest=0.05), center="pooled")
    law = laws.BYOL(p.gamma, p.sigma, 0.3, ema=ema)
    lam0 = np.full(2, 1e-8)
    A0 = law.aligned_start(lam0)
    tau = np.asarray(law.step_times(lam0))
    start, unravel = ravel_pytree({"encoder": A0, "predictor": 0.3 * jnp.eye(2), "target": A0})
    slope = jax.jit(lambda y: ravel_pytree(law.rhs_tree(unravel(y)))[0])
    measure = jax.jit(lambda y: jnp.linalg.eigvalsh(law.measure(unravel(y)["encoder"]))[::-1])
    run = solve_ivp(lambda t, y: np.asarray(slope(y)), (0, 1.5 * tau[1]), start, rtol=1e-8)
    curves = np.stack([np.asarray(measure(y)) for y in run.y.T])
    goals = np.asarray(law.rest())[law.order[:2]] / 2
    error = np.abs([crossing(run.t, curves[:, j], goals[j]) / tau[j] - 1 for j in range(2)])
    estimate = law.neglected(tau, 2)
    assert error[0] < 0.02 and estimate[0] == 0
    assert 0.005 < error[1] < estimate[1]


def test_a_law_that_does_not_say_its_flow_vouches_for_no_later_mode():
    @dataclass(frozen=True)
    class Silent(laws.LeJEPA):
        def rhs(self, A):
            raise laws.NotKnownError("rhs: not known")

    p = problem.from_views(*pairs(), center="pooled")
    law = Silent(p.gamma, p.sigma, D, n=p.n_pairs)
    errors = law.neglected(np.array([1.0, 2.0]), D)
    assert errors[0] == 0 and errors[1] == np.inf
