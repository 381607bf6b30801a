"""Growth rates of any loss against laws, hand-derived operators and descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import dynamics, growth, laws, losses, problem
from stepwise.laws.spectral_contrastive import SpectralContrastive
from tests import problems

R = 5


def pairs(seed=0, count=40, r=R, shared=0.8):
    """Return two views with every pair in both orders, no mean, and Σ and Γ that do not commute."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(count, r)) * np.linspace(1.2, 0.4, r) * np.sqrt(shared)
    own = rng.normal(size=(2, count, r)) @ rng.normal(size=(r, r)) * np.sqrt(1 - shared) / 2
    x, x2 = common + own[0], common + own[1]
    mean = (x.mean(0) + x2.mean(0)) / 2
    x, x2 = x - mean, x2 - mean
    return np.concatenate([x, x2]), np.concatenate([x2, x])


def example(seed=0, **options):
    p = problem.from_views(*pairs(seed, **options), center="none")
    gamma, sigma = np.diag(np.asarray(p.gamma)), np.asarray(p.sigma)
    assert np.linalg.norm(gamma @ sigma - sigma @ gamma) > 0.03 * np.linalg.norm(gamma @ sigma)
    return p, gamma, sigma


def top(matrix, k=R):
    return np.linalg.eigvalsh(matrix)[::-1][:k]


def agrees(result, operator, rtol=1e-6):
    """Check rates, and that the directions are one for each eigenvector of the operator."""
    k = len(result.rates)
    values, vectors = np.linalg.eigh(operator)
    np.testing.assert_allclose(result.rates, values[::-1][:k], rtol=rtol, atol=rtol * values.max())
    rows = np.asarray(result.directions)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=(1, 2)), 1, rtol=1e-6)
    overlaps = np.linalg.norm(rows @ vectors[:, ::-1][:, :k], axis=1)
    np.testing.assert_allclose(overlaps, np.eye(k), atol=1e-4)


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rates_of_barlow_twins_are_those_of_its_law(seed, d, x64):
    p, gamma, _ = example(seed)
    result = growth.rates(losses.barlow_twins_unnormalised, p, d=d, modes=R)
    np.testing.assert_allclose(result.rates, laws.BarlowTwins(p.gamma).growth(), rtol=1e-6)
    agrees(result, 8 * gamma)
    assert float(result.drift) == 0 and not np.asarray(result.frequencies).any()


def test_the_rates_of_spectral_contrastive_are_those_of_its_law(x64):
    p, gamma, _ = example()

    def loss(z1, z2):
        return losses.spectral_contrastive(z1, z2, mu=10.0)

    result = growth.rates(loss, p, d=2, modes=R)
    law = SpectralContrastive(p.gamma, p.sigma, 10.0, d=2)
    np.testing.assert_allclose(result.rates, np.sort(law.growth())[::-1], rtol=1e-6)
    agrees(result, 8 * gamma / 10)


def test_the_rates_of_official_barlow_twins_are_8_gamma_over_eps(x64):
    p, _, _ = example()
    x, x2 = np.split(np.asarray(p.features), 2)
    x, x2 = x - x.mean(0), x2 - x2.mean(0)  # symmetrised pairs have no mean, so nothing moves
    result = growth.rates(losses.barlow_twins, p, d=3, modes=R)
    agrees(result, 8 * problems.cross_moment(x, x2) / 1e-5)


@pytest.mark.parametrize("d", [1, 4])
def test_the_rates_of_vicreg_follow_sigma_and_depend_on_d(d, x64):
    p, gamma, sigma = example()
    n = p.n_pairs
    operator = 2 / d * (25 * sigma * n / (n - 1) / 0.01 - 100 * (sigma - gamma))
    agrees(growth.rates(losses.vicreg, p, d=d, modes=R), operator)


def quadratic_vicreg(z1, z2):
    """Return 2·mean ‖z1 − z2‖² − … with the variance term ‖S − I‖², a = 2 and b = 3."""
    S = (z1.T @ z1 + z2.T @ z2) / (2 * len(z1))
    difference = jnp.mean(jnp.sum((z1 - z2) ** 2, axis=1))
    return 2 * difference + 3 * jnp.sum((S - jnp.eye(len(S))) ** 2)


def test_the_rates_of_quadratic_vicreg_are_those_of_its_operator(x64):
    # W' = −4a W (Σ − Γ) + 4b W Σ near zero, with mean ‖z1 − z2‖² = 2 tr W (Σ − Γ) Wᵀ
    p, gamma, sigma = example()
    agrees(growth.rates(quadratic_vicreg, p, d=2), 8 * (3 * sigma - 2 * (sigma - gamma)))


def test_the_rates_of_simclr_without_norms_include_its_negatives(x64):
    p, gamma, sigma = example()

    def loss(z1, z2):
        return losses.simclr(z1, z2, temperature=0.5, normalise=False)

    agrees(growth.rates(loss, p, d=2), 16 * (gamma + sigma / (2 * p.n_pairs - 1)))


@pytest.mark.parametrize("trainable", [False, True])
def test_simclr_grows_from_an_offset_across_it(trainable, x64):
    p, gamma, sigma = example()
    b = jnp.asarray([0.0, 2.0, 0.0])
    if trainable:
        at = {"W": jnp.zeros((3, R)), "b": b}

        def loss(tree, x, x2):
            z1, z2 = x @ tree["W"].T + tree["b"][None], x2 @ tree["W"].T + tree["b"][None]
            return losses.simclr(z1, z2, temperature=0.5)

        result = growth.rates(loss, p, at=at)
        result = result._replace(directions=result.directions["W"])
    else:

        def shifted(z1, z2):
            return losses.simclr(z1 + b[None], z2 + b[None], temperature=0.5)

        result = growth.rates(shifted, p, d=3)
    agrees(result, 8 / (0.5 * 4) * (gamma + sigma / (2 * p.n_pairs - 1)))
    assert np.abs(np.asarray(result.directions)[:, 1]).max() < 1e-6  # nothing along the offset


def test_the_rates_of_lejepa_are_those_of_its_operator(x64):
    p, gamma, sigma = example()
    d, weight, n = 3, 0.001, p.n_pairs
    kappa = np.sum(
        losses.isotropy.WEIGHTS * losses.isotropy.KNOTS**2 * (1 - losses.isotropy.GAUSSIAN)
    )
    operator = 4 / d * (weight * n * kappa * sigma - (1 - weight) * (sigma - gamma) / 2)

    def loss(z1, z2):
        return losses.lejepa(z1, z2, weight=weight, slices=np.eye(d))

    agrees(growth.rates(loss, p, d=d), operator)
    turned = problems.rotation(d)[:2]  # two of three directions of the embedding feel the loss

    def partial_loss(z1, z2):
        return losses.lejepa(z1, z2, weight=weight, slices=turned)

    strong = 4 * (weight * n * kappa * sigma / 2 - (1 - weight) * (sigma - gamma) / (2 * d))
    agrees(growth.rates(partial_loss, p, d=d, modes=R), strong)


def test_the_rates_of_byol_need_the_derivative_through_its_stopped_gradient(x64):
    p, gamma, sigma = example()
    p0 = 0.3
    at = {"W": jnp.zeros((2, R)), "P": p0 * jnp.eye(2)}

    def loss(tree, x, x2):
        z1, z2 = x @ tree["W"].T, x2 @ tree["W"].T
        return losses.byol(z1 @ tree["P"].T, z2 @ tree["P"].T, z1, z2, normalise=False)

    result = growth.rates(loss, p, at=at, modes=R)
    agrees(result._replace(directions=result.directions["W"]), 8 * p0 * (gamma - p0 * sigma))


def test_the_rates_of_isoloss_do_not_need_the_derivative_of_its_eigenvectors(x64):
    p, gamma, _ = example()
    result = growth.rates(losses.isoloss, p, d=2)
    np.testing.assert_allclose(result.rates, 2 * np.diag(gamma), rtol=1e-6)


@pytest.mark.parametrize("K", [2, 4])
def test_dino_grows_in_one_direction_fewer_than_it_has_prototypes(K, x64):
    # with the student as its own teacher: W' = (1/(K τs)) Π W (Γ/τt − Σ/τs)
    p, gamma, sigma = example()

    def loss(z1, z2):
        return losses.dino(z1, z2, z1, z2, jnp.zeros(K))

    result = growth.rates(loss, p, d=K)
    agrees(result, 2 / (0.1 * K) * (gamma / 0.04 - sigma / 0.1))
    assert np.abs(np.asarray(result.directions).sum(axis=1)).max() < 1e-6


def test_two_towers_grow_along_the_singular_vectors_of_their_cross_moment(x64):
    x, x2 = pairs()
    half = len(x) // 2  # one order of every pair, so that G is not symmetric
    p = problem.from_views(x[:half], x2[:half], center="none")
    f, f2 = (np.asarray(part) for part in np.split(np.asarray(p.features), 2))
    G = (f - f.mean(0)).T @ (f2 - f2.mean(0)) / half
    at = {"image": jnp.zeros((2, R)), "text": jnp.zeros((2, R))}

    def loss(tree, x, x2):
        return losses.clip(x @ tree["image"].T, x2 @ tree["text"].T, scale=3.0, normalise=False)

    result = growth.rates(loss, p, at=at, modes=3)
    U, g, V = np.linalg.svd(G)
    np.testing.assert_allclose(result.rates, 6 * g[:3], rtol=1e-6)
    for name, vectors in (("image", U), ("text", V.T)):
        overlaps = np.linalg.norm(np.asarray(result.directions[name]) @ vectors[:, :3], axis=1)
        np.testing.assert_allclose(overlaps, np.eye(3) / np.sqrt(2), atol=1e-5)


# Three losses that the package does not contain.


def correntropy(z1, z2):
    """Return −mean exp(−‖z1 − z2‖²/2) + ln det(1 + S)⁻¹: near zero, tr W (Σ − Γ) Wᵀ − tr W Σ Wᵀ."""
    S = (z1.T @ z1 + z2.T @ z2) / (2 * len(z1))
    alike = jnp.mean(jnp.exp(-jnp.sum((z1 - z2) ** 2, axis=1) / 2))
    return -alike - jnp.linalg.slogdet(jnp.eye(len(S)) + S)[1]


def saturating(z1, z2):
    """Return Σ_i cosh(C_ii − 1) + Σ C², the off-diagonal terms weighted by 3."""
    C = (z1.T @ z2 + z2.T @ z1) / (2 * len(z1))
    return jnp.sum(jnp.cosh(jnp.diagonal(C) - 1)) + 3 * jnp.sum(jnp.triu(C, 1) ** 2)


def unequal(z1, z2):
    """Return the alignment of each dimension with its own weight, 1, 2, ..."""
    weights = jnp.arange(1.0, z1.shape[1] + 1)
    return -jnp.mean((z1 * z2) @ weights) + jnp.mean(jnp.sum(z1**2, axis=1)) ** 2


def test_losses_that_the_package_does_not_contain(x64):
    p, gamma, sigma = example()
    agrees(growth.rates(correntropy, p, d=2), 2 * (2 * sigma - 2 * (sigma - gamma)))
    agrees(growth.rates(saturating, p, d=3), 4 * np.sinh(1) * gamma)
    agrees(growth.rates(unequal, p, d=3, modes=3), 3 * 4 * gamma)


@pytest.mark.parametrize("loss", [correntropy, saturating])
def test_descent_of_another_loss_grows_at_its_rates(loss, x64):
    p, _, _ = example()
    result = growth.rates(loss, p, modes=1)
    A0, lr = 1e-6 * result.directions[0], 1e-3
    run = dynamics.descent(p, A0, lr, 100, loss=loss, snapshots=True)
    sizes = np.linalg.norm(np.asarray(run.snapshots), axis=(1, 2))
    times = np.asarray(run.times)[[0, -1]]
    rate = 2 * np.log(sizes[-1] / sizes[0]) / (times[1] - times[0])
    np.testing.assert_allclose(rate, 2 * np.log1p(lr * result.rates[0] / 2) / lr, rtol=1e-6)


def test_the_next_mode_grows_from_a_rest_as_deflation_says(x64):
    gamma = np.array([2.0, 1.0, 0.5, 0.2])
    p = problems.modes(gamma)
    sigma = np.diag(np.asarray(p.sigma))
    law = SpectralContrastive(p.gamma, p.sigma, 1e3, d=2)

    def loss(z1, z2):
        return losses.spectral_contrastive(z1, z2, mu=1e3)

    at = np.zeros((2, 4))
    at[0, 0] = 1 / np.sqrt(gamma[0])
    result = growth.rates(losses.barlow_twins_unnormalised, p, at=at, modes=2)
    # the spare row learns modes 2 and 3, and mode 1 has no rate there any more
    np.testing.assert_allclose(result.rates, [8, 4], rtol=1e-6)
    np.testing.assert_allclose(result.rates[0], laws.BarlowTwins(gamma).next_growth([0]), rtol=1e-6)
    assert np.abs(result.directions[0, 1, 1]) > 1 - 1e-6 and float(result.drift) < 1e-12
    assert law.growth().shape == sigma.shape


def test_the_largest_eigenvalue_is_used_and_not_the_one_of_largest_magnitude(x64):
    p = problems.modes([1.0, 0.5, -3.0])
    result = growth.rates(losses.barlow_twins_unnormalised, p, modes=3)
    np.testing.assert_allclose(result.rates, [8, 4, -24], rtol=1e-6)


def test_many_modes_are_found_without_a_matrix(x64):
    rng = np.random.default_rng(0)
    p = problems.modes(np.sort(rng.uniform(0, 1, 300))[::-1])
    result = growth.rates(losses.barlow_twins_unnormalised, p, d=2, modes=4)
    np.testing.assert_allclose(result.rates, 8 * p.gamma[:4], rtol=1e-6)


def test_arnoldi_iteration_finds_what_the_matrix_has(x64, monkeypatch):
    p, _, _ = example(r=30, count=60)

    def loss(tree, x, x2):
        z1, z2 = x @ tree["W"].T, x2 @ tree["W"].T
        p1, p2 = z1 @ tree["P"].T, z2 @ tree["P"].T
        return losses.simsiam(p1, p2, z1, z2, normalise=False)

    at = {"W": jnp.ones((1, 30)) / 9, "P": 0.3 * jnp.eye(1)}
    direct = growth.rates(loss, p, at=at, modes=3)
    monkeypatch.setattr("stepwise._linearisation.SMALL", 0)
    monkeypatch.setattr("stepwise._linearisation.DENSE", 0)
    krylov = growth.rates(loss, p, at=at, modes=3)
    np.testing.assert_allclose(krylov.rates, direct.rates, rtol=1e-6)
    np.testing.assert_allclose(krylov.frequencies, direct.frequencies, atol=1e-6)


def spiral(tree, x, x2):
    """Descend a product of which each factor sees the other with its gradient stopped."""
    stop = jax.lax.stop_gradient
    return jnp.sum(tree["a"] * stop(tree["b"])) - jnp.sum(tree["b"] * stop(tree["a"]))


def test_a_flow_that_turns_has_a_frequency(x64):
    p = problems.modes([1.0, 0.5])
    at = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    result = growth.rates(spiral, p, at=at, modes=2)
    np.testing.assert_allclose(result.rates, 0, atol=1e-12)
    np.testing.assert_allclose(np.sort(result.frequencies), [-1, 1], rtol=1e-12)


def cosine(z1, z2):
    norms = jnp.linalg.norm(z1, axis=1) * jnp.linalg.norm(z2, axis=1)
    return -jnp.mean(jnp.sum(z1 * z2, axis=1) / norms)


def absolute(z1, z2):
    return jnp.mean(jnp.abs(z1 - z2)) - jnp.mean(z1 * z2)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (cosine, "differentiated twice at `at`.* received cosine"),
        (absolute, "linear.* received absolute"),
        (losses.simclr, "linear.* smaller scale.* received simclr"),
        (lambda z1, z2: jnp.mean(z1) - jnp.mean(z1 * z2), "at: expected a saddle.* <lambda>"),
        (lambda z1, z2: z1, "loss: expected a function that returns one real number"),
        (3, "loss: expected a function loss"),
    ],
)
def test_losses_without_a_linear_gradient_are_refused_by_name(loss, message, x64):
    p, _, _ = example()
    p = problem.from_views(*(view + 1 for view in pairs()), center="none")
    with pytest.raises(ValueError, match=message):
        growth.rates(loss, p, d=2)


def test_a_scale_beyond_the_smoothing_constant_is_refused(x64):
    p, _, _ = example()
    with pytest.raises(ValueError, match=r"received barlow_twins, off by"):
        growth.rates(losses.barlow_twins, p, scale=1e-2)


def test_wrong_arguments_are_refused(x64):
    p, _, _ = example()
    loss = losses.barlow_twins_unnormalised
    with pytest.raises(ValueError, match=r"modes: expected a whole number in 1 ... 5"):
        growth.rates(loss, p, modes=6)
    with pytest.raises(ValueError, match="at: expected 5 columns"):
        growth.rates(loss, p, at=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="problem: expected a problem with all of its modes"):
        growth.rates(loss, p.truncate(2))


def test_single_precision_agrees_with_double():
    p, gamma, sigma = example()
    assert p.gamma.dtype == jnp.float32
    result = growth.rates(losses.barlow_twins_unnormalised, p, d=2)
    agrees(result, 8 * gamma, rtol=1e-4)
    n = p.n_pairs
    operator = 25 * sigma * n / (n - 1) / 0.01 - 100 * (sigma - gamma)
    agrees(growth.rates(losses.vicreg, p, d=2), operator, rtol=1e-3)
    b = jnp.asarray([0.0, 2.0])
    result = growth.rates(lambda z1, z2: losses.simclr(z1 + b[None], z2 + b[None]), p, d=2)
    np.testing.assert_allclose(result.rates, top(20 * (gamma + sigma / (2 * n - 1))), rtol=2e-3)
