import pickle
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import _npz, spectra
from stepwise.moments import CENTERS
from stepwise.problem import Problem, from_gram, from_kernel, from_views
from stepwise.problem.problem import require_modes
from tests import problems

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 7)) + 2
X2 = X + 0.8 * RNG.normal(size=X.shape)
NEW = RNG.normal(size=(5, 7)) + 2
WIDE = np.concatenate([X, np.zeros((12, 40))], 1) @ problems.rotation(47)  # the same pairs, in a larger space
WIDE2 = np.concatenate([X2, np.zeros((12, 40))], 1) @ problems.rotation(47)


def linear(a, b):
    return a @ b.T


def quadratic(a, b):
    return (a @ b.T + 1.0) ** 2


def expanded(a):
    """Features of the quadratic kernel."""
    a = np.concatenate([np.ones((len(a), 1)), a], 1)
    return np.einsum("ni,nj->nij", a, a).reshape(len(a), -1)


def laplace(a, b):
    return jnp.exp(-jnp.sqrt(jnp.sum((a[:, None] - b) ** 2, -1) + 1e-12))


def embedding_gram(p, A, inputs):
    """What does not depend on the signs and rotations of the modes."""
    z = np.asarray(p.embed(A, inputs))
    return z @ z.T


@pytest.mark.parametrize("center", CENTERS)
@pytest.mark.parametrize("pair", [(X, X2), (WIDE, WIDE2)], ids=["m<=2n", "m>2n"])
def test_the_spectrum_and_its_vectors_are_those_of_the_formula(pair, center, x64):
    gamma_matrix = problems.cross_moment(*pair, center)
    p = from_views(*pair, center=center)
    values = np.linalg.eigvalsh(gamma_matrix)[::-1]
    kept = np.sort(values[np.argsort(-np.abs(values))[: p.gamma.size]])[::-1]
    np.testing.assert_allclose(p.gamma, kept, atol=1e-13)
    assert np.abs(values).sum() == pytest.approx(np.abs(kept).sum(), abs=1e-11)
    V = np.asarray(p.basis)
    np.testing.assert_allclose(V.T @ V, np.eye(p.gamma.size), atol=1e-12)
    np.testing.assert_allclose(V * p.gamma @ V.T, gamma_matrix, atol=1e-12)
    assert float(p.lowest) == float(p.gamma[-1])
    assert (p.n_pairs, p.n_positive) == (12, int((kept > 0).sum()))


@pytest.mark.parametrize("center", CENTERS)
def test_both_sides_that_can_be_diagonalised_agree(center, x64):
    narrow, wide = from_views(X, X2, center=center), from_views(WIDE, WIDE2, center=center)
    np.testing.assert_allclose(narrow.gamma, wide.gamma, atol=1e-13)
    np.testing.assert_allclose(np.abs(narrow.features), np.abs(wide.features), atol=1e-11)
    np.testing.assert_allclose(np.abs(narrow.offset), np.abs(wide.offset), atol=1e-11)


@pytest.mark.parametrize("center", CENTERS)
def test_features_are_the_mode_coordinates_of_the_centred_views(center, x64):
    p = from_views(X, X2, center=center)
    a, b = (np.asarray(p.features)[part] for part in (slice(0, 12), slice(12, 24)))
    np.testing.assert_allclose((a.T @ b + b.T @ a) / 24, np.diag(p.gamma), atol=1e-12)
    embedded = p.embed(np.eye(p.gamma.size), np.concatenate([X, X2]))
    if center == "per_view":  # new inputs do not say which view they are: they meet the pooled mean
        np.testing.assert_allclose((embedded[:12] + embedded[12:]) / 2, (a + b) / 2, atol=1e-12)
    else:
        np.testing.assert_allclose(embedded, p.features, atol=1e-12)


@pytest.mark.parametrize("center", CENTERS)
def test_linear_is_the_kernel_of_dot_products(center, x64):
    views = np.concatenate([X, X2])
    ways = from_views(X, X2, center=center), from_kernel(linear, X, X2, center=center)
    grams = from_gram(views @ views.T, center=center)
    A = np.diag(np.arange(1.0, 4))
    for p, inputs in (*((way, NEW) for way in ways), (grams, NEW @ views.T)):
        np.testing.assert_allclose(p.gamma, ways[0].gamma, atol=1e-12)
        z = np.asarray(p.predict(3))
        np.testing.assert_allclose(
            z @ z.T, np.asarray(ways[0].predict(3)) @ np.asarray(ways[0].predict(3)).T, atol=1e-9
        )
        padded = np.pad(A, ((0, 0), (0, p.gamma.size - 3)))
        np.testing.assert_allclose(embedding_gram(p, padded, inputs), embedding_gram(ways[0], padded, NEW), atol=1e-9)


@pytest.mark.parametrize("center", CENTERS)
def test_a_kernel_predicts_what_its_explicit_features_do(center, x64):
    kernel = from_kernel(quadratic, X[:, :3], X2[:, :3], center=center)
    features = from_views(expanded(X[:, :3]), expanded(X2[:, :3]), center=center)
    assert kernel.gamma.size == features.gamma.size == (9 if center != "none" else 10)
    np.testing.assert_allclose(kernel.gamma, features.gamma, rtol=1e-10)
    d = kernel.n_positive
    pairs = [
        (kernel.predict(d), features.predict(d)),
        (kernel.embed(kernel.optimum(d), NEW[:, :3]), features.embed(features.optimum(d), expanded(NEW[:, :3]))),
    ]
    for z, w in pairs:
        np.testing.assert_allclose(np.asarray(z) @ np.asarray(z).T, np.asarray(w) @ np.asarray(w).T, atol=1e-10)


def test_a_positive_definite_kernel_has_as_many_positive_as_negative_modes(x64):
    p = from_kernel(laplace, X, X2)
    assert (np.asarray(p.gamma) > 0).sum() == (np.asarray(p.gamma) < 0).sum() == 12
    K = np.asarray(laplace(np.concatenate([X, X2]), np.concatenate([X, X2])))
    np.testing.assert_allclose(p.basis.T @ K @ p.basis, np.eye(24), atol=1e-10)
    swap = np.roll(np.eye(24), 12, 0)
    np.testing.assert_allclose(p.gamma, np.sort(np.linalg.eigvals(swap @ K / 24).real)[::-1], atol=1e-13)
    assert from_kernel(laplace, X, X2, center="pooled").n_positive == 11


@pytest.mark.parametrize("make", [lambda: from_views(X, X2), lambda: from_kernel(laplace, X, X2, center="pooled")])
def test_predicted_embeddings_have_the_identity_for_cross_moment(make, x64):
    p = make()
    for d in (1, p.n_positive):
        z = p.predict(d)
        np.testing.assert_allclose(spectra.eigenvalues(z[:12], z[12:]), 1, atol=1e-9)
    with pytest.raises(ValueError, match=rf"d: expected a number in 1 ... {p.n_positive}, the positive modes"):
        p.predict(p.n_positive + 1)
    with pytest.raises(ValueError, match=r"d: expected a number in 1 .* received 0"):
        p.predict(0)


@pytest.mark.parametrize(("center", "rank"), [("none", 12), ("pooled", 11), ("per_view", 10)])
def test_null_directions_of_the_data_are_dropped(center, rank, dtype):
    x, x2 = (RNG.normal(size=(6, 30)).astype(dtype) for _ in range(2))
    assert from_views(x, x2, center=center).gamma.size == rank
    assert from_views(np.tile(x[:, :1], 2), np.tile(x2[:, :1], 2), center=center).gamma.size == 1


def test_repeated_pairs_change_nothing(x64):
    once, twice = from_views(X, X2), from_views(np.concatenate([X, X]), np.concatenate([X2, X2]))
    np.testing.assert_allclose(once.gamma, twice.gamma, atol=1e-13)
    np.testing.assert_allclose(problems.projector(once.basis), problems.projector(twice.basis), atol=1e-10)
    doubled = from_views(np.tile(WIDE[:4], (2, 1)), np.tile(WIDE2[:4], (2, 1)))
    assert doubled.gamma.size == 7


def test_a_prescribed_spectrum_comes_back_degenerate_modes_and_all(x64):
    gamma = np.array([3, 3, 1, 0.5, 0.5, -0.2, -2])
    x, x2, V = problems.views(gamma, 9, mean=5.0)
    p = from_views(x, x2)
    np.testing.assert_allclose(p.gamma, gamma, atol=1e-12)
    for part in (slice(0, 2), slice(2, 3), slice(3, 5), slice(5, 6)):
        np.testing.assert_allclose(problems.projector(p.basis[:, part]), problems.projector(V[:, part]), atol=1e-10)


def test_one_pair_has_one_positive_and_one_negative_mode_or_one_of_them(x64):
    a, b = np.array([[1.0, 0, 0]]), np.array([[0.6, 0.8, 0]])
    np.testing.assert_allclose(from_views(a, b, center="none").gamma, [0.8, -0.2], atol=1e-15)
    np.testing.assert_allclose(from_views(a, b).gamma, [-0.2], atol=1e-15)
    with pytest.raises(ValueError, match="that differ from one another"):
        from_views(a, b, center="per_view")
    with pytest.raises(ValueError, match="that differ from one another"):
        from_views(np.ones((3, 2)), np.ones((3, 2)))


def test_weights_and_coordinates_are_inverse_on_the_span(x64):
    p = from_views(WIDE, WIDE2)
    A = RNG.normal(size=(3, p.gamma.size))
    np.testing.assert_allclose(p.coordinates(p.weights(A)), A, atol=1e-12)
    W = RNG.normal(size=(3, 47))
    np.testing.assert_allclose(p.weights(p.coordinates(W)), W @ problems.projector(p.basis), atol=1e-11)
    np.testing.assert_allclose(
        p.embed(A, NEW @ np.eye(7, 47)), (NEW @ np.eye(7, 47) - (WIDE + WIDE2).mean(0) / 2) @ p.weights(A).T
    )
    with pytest.raises(ValueError, match="coordinates: expected a linear problem, made by from_views"):
        from_kernel(linear, X, X2).coordinates(W)
    with pytest.raises(ValueError, match=r"W: expected 47 columns as the inputs, received float64 \[3, 7\]"):
        p.coordinates(W[:, :7])


def test_a_start_has_the_scale_asked_for(dtype):
    A = problems.modes(np.ones(50), dtype).start(jax.random.key(0), 40, 1e-3)
    assert A.dtype == dtype
    assert np.std(A) == pytest.approx(1e-3, rel=0.05)


def big_views(n, m, dtype, noise=0.5, rank=20):
    rng = np.random.default_rng(3)
    base = (rng.normal(size=(n, rank)) * 0.8 ** np.arange(rank)) @ rng.normal(size=(rank, m)) / np.sqrt(m)
    return tuple((base + noise * rng.normal(size=(n, m)) / m + 1).astype(dtype) for _ in range(2))


@pytest.mark.parametrize(("shape", "center"), [((80, 300), "pooled"), ((200, 130), "none"), ((200, 130), "per_view")])
def test_the_first_modes_alone_are_the_first_of_all(shape, center, dtype):
    x, x2 = big_views(*shape, dtype)
    whole, some = from_views(x, x2, center=center), from_views(x, x2, center=center, modes=4)
    tolerance = 1e-5 if dtype == "float32" else 1e-8
    assert some.gamma.shape == (4,)
    assert some.features.shape == (2 * shape[0], 4)
    assert some.gamma.dtype == dtype
    np.testing.assert_allclose(some.gamma, whole.gamma[:4], rtol=tolerance)
    for name in ("features", "basis", "offset"):
        scale = float(np.abs(getattr(whole, name)[..., :4]).max())
        difference = np.abs(np.abs(getattr(some, name)) - np.abs(getattr(whole, name)[..., :4])).max()
        assert difference <= 300 * tolerance * scale + tolerance
    assert float(whole.lowest) <= float(some.lowest) + 1e-6 * float(whole.gamma[0])
    z = np.asarray(some.predict(4), float)
    np.testing.assert_allclose(spectra.eigenvalues(z[: shape[0]], z[shape[0] :]), 1, atol=1e-4)


def test_modes_beyond_the_positive_ones_come_from_the_whole_spectrum(x64):
    gamma = np.r_[np.linspace(3, 1, 3), -np.linspace(0.1, 2, 150)]
    x, x2, _ = problems.views(gamma, 200)
    np.testing.assert_allclose(from_views(x, x2, modes=5).gamma, [3, 2, 1, *np.sort(gamma)[::-1][3:5]], atol=1e-10)
    np.testing.assert_allclose(from_views(x, x2, modes=2).gamma, [3, 2], atol=1e-8)
    with pytest.raises(
        ValueError, match=r"modes: expected a whole number in 1 ... 153, the rank of the data, received 180"
    ):
        from_views(x, x2, modes=180)
    with pytest.raises(ValueError, match=r"modes: expected a whole number in 1 ... 200, received 201"):
        from_views(x, x2, modes=201)


def test_a_flat_spectrum_is_found_on_the_whole_matrix_instead():
    x, x2 = (RNG.normal(size=(150, 160)).astype(np.float32) for _ in range(2))
    with np.errstate(all="raise"):
        some = from_views(x, x2, modes=6)
    np.testing.assert_allclose(some.gamma, from_views(x, x2).gamma[:6], rtol=1e-5)
    nothing = from_views(x, 0 * x2, center="none", modes=2)
    np.testing.assert_allclose(nothing.gamma, 0, atol=1e-6)


def test_nothing_of_input_by_input_size_is_ever_made():
    x, x2 = (RNG.normal(size=(5, 200_000)).astype(np.float32) for _ in range(2))
    tracemalloc.start()
    p = from_views(x, x2, modes=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert p.basis.shape == (200_000, 3)
    assert peak < 40 * x.nbytes


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8, jnp.bfloat16, list])
def test_inputs_of_any_kind_give_results_in_their_own_precision(kind, dtype):
    whole = np.round(10 * np.abs(X)).astype(int)
    x, x2 = (
        v.tolist() if kind is list else jnp.asarray(v, kind) if kind is jnp.bfloat16 else v.astype(kind)
        for v in (whole, whole[::-1] % 7)
    )
    p = from_views(x, x2)
    wide = dtype == "float64" and kind in (np.float64, np.int64, np.uint8, list)
    for field in (p.gamma, p.features, p.basis, p.offset, p.lowest, p.predict(1), p.embed(p.optimum(1), x)):
        assert field.dtype == ("float64" if wide else "float32")
    np.testing.assert_allclose(p.gamma, from_views(whole, whole[::-1] % 7).gamma, rtol=1e-4, atol=1e-4)


def test_images_are_flattened(x64):
    image = X[:, :6].reshape(12, 2, 3, 1), X2[:, :6].reshape(12, 2, 3, 1)
    p = from_views(*image)
    np.testing.assert_allclose(p.gamma, from_views(X[:, :6], X2[:, :6]).gamma, rtol=1e-12)
    np.testing.assert_allclose(p.embed(p.optimum(2), image[0]), p.predict(2)[:12], atol=1e-11)


def test_lists_meet_a_kernel_too(x64):
    p = from_kernel(linear, X.tolist(), X2.tolist())
    np.testing.assert_allclose(p.embed(p.optimum(2), X.tolist()), p.predict(2)[:12], atol=1e-9)


def test_a_problem_passes_through_jit_and_tree_map(x64):
    p = from_kernel(quadratic, X[:, :3], X2[:, :3])
    out = jax.jit(lambda p, A: p.embed(A, NEW[:, :3]))(p, p.optimum(2))
    np.testing.assert_allclose(out, p.embed(p.optimum(2), NEW[:, :3]), atol=1e-10)
    assert isinstance(jax.tree.map(lambda leaf: leaf, p), Problem)


def test_truncation_keeps_the_first_modes_and_the_lowest(x64):
    p = from_views(X, X2)
    cut = p.truncated(3)
    np.testing.assert_array_equal(cut.gamma, p.gamma[:3])
    np.testing.assert_array_equal(cut.predict(3), p.predict(3))
    assert cut.lowest == p.lowest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_views(X, X2[:3]), r"x2: expected shape \[12, 7\] as x, received float64 \[3, 7\]"),
        (lambda: from_views(X[:0], X2[:0]), r"x: expected at least one view .* received float64 \[0, 7\]"),
        (lambda: from_views(X * np.nan, X2), "x: expected finite entries, received 84 of 84 not finite"),
        (lambda: from_views(X > 0, X2), "x: expected real numbers, received bool"),
        (lambda: from_gram(np.eye(3)), r"K: expected a square matrix \[2n, 2n\]"),
        (lambda: from_gram(np.ones((2, 4))), r"K: expected a square matrix \[2n, 2n\]"),
        (
            lambda: from_gram(np.triu(np.ones((4, 4)))),
            r"K: expected a symmetric matrix .* received \|K - Kᵀ\| up to 1.0e",
        ),
        (lambda: from_gram(np.diag([1.0, 1, 1, -1])), "positive semi-definite.*eigenvalues from -1.000e"),
        (lambda: from_gram(np.zeros((4, 4))), "that differ from one another"),
        (lambda: from_kernel(lambda a, b: jnp.eye(4), X, X2), r"kernel: expected values \[24, 24\]"),
        (lambda: from_kernel(linear, X, X2[:3]), r"x2: expected shape \[12, 7\] as x"),
        (lambda: from_gram(np.eye(4), modes=5), "modes: expected a whole number in 1 ... 4, received 5"),
        (lambda: require_modes(1.5, 4), "modes: expected a whole number in 1 ... 4, received 1.5"),
        (lambda: from_gram(np.eye(4), cutoff=-1e-3), r"cutoff: expected a number in \[0, 1\).* received -0.001"),
        (lambda: from_gram(np.eye(4), cutoff=np.nan), r"cutoff: expected a number in \[0, 1\).* received nan"),
        (lambda: from_views(X[:0], X2[:0]), "x: expected at least one"),
        (lambda: from_kernel(linear, X[:0], X2[:0]), "x: expected at least one"),
        (lambda: from_views(X, X2).embed(np.ones((2, 7)), np.ones((1, 3))), "inputs: expected 7 numbers an input"),
        (lambda: from_gram(np.eye(4)).embed(np.ones((2, 4)), np.ones((1, 3))), "inputs: expected 4 kernel values"),
        (lambda: from_views(X, X2).embed(np.ones((2, 3)), X), "A: expected 7 columns, one a mode"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, message, x64):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("make", [lambda: from_views(X, X2), lambda: from_gram(quadratic(WIDE, WIDE))])
def test_a_saved_problem_comes_back_bit_for_bit(make, dtype, tmp_path):
    p = make()
    p.save(tmp_path / "p")
    q = Problem.load(tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    for name in ("gamma", "features", "basis", "offset", "lowest"):
        a, b = np.asarray(getattr(p, name)), np.asarray(getattr(q, name))
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    assert (q.center, q.linear, q.n_pairs) == (p.center, p.linear, p.n_pairs)


def test_a_saved_kernel_problem_takes_its_kernel_again_or_embeds_rows(x64, tmp_path):
    p = from_kernel(quadratic, X, X2, center="pooled")
    p.save(tmp_path / "p.npz")
    A, expected = p.optimum(2), p.embed(p.optimum(2), NEW)
    again, rows = Problem.load(tmp_path / "p.npz", kernel=quadratic), Problem.load(tmp_path / "p.npz")
    np.testing.assert_array_equal(again.embed(A, NEW), expected)
    np.testing.assert_allclose(rows.embed(A, quadratic(NEW, np.concatenate([X, X2]))), expected, atol=1e-12)


def test_foreign_and_damaged_files_are_refused_by_name(tmp_path):
    path = tmp_path / "p.npz"
    from_gram(np.eye(4, dtype=np.float32)).save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [good[:cut] for cut in (0, 1, 100, len(good) // 2, len(good) - 1)] + [b"x" * 300, pickle.dumps([1])]
    for _ in range(60):
        broken = bytearray(good)
        broken[rng.integers(len(good))] ^= 255
        damaged.append(bytes(broken))
    for content in damaged:
        path.write_bytes(content)
        try:
            loaded = Problem.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: expected a saved stepwise.Problem")
        else:
            np.testing.assert_array_equal(loaded.gamma, from_gram(np.eye(4, dtype=np.float32)).gamma)
    np.savez(path, gamma=np.ones(3))
    with pytest.raises(ValueError, match="received something else"):
        Problem.load(path)
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ValueError, match="received something else"):
        Problem.load(tmp_path / "a.npy")
    _npz.write(path, "stepwise.Trajectory", {"gamma": np.ones(3)}, {})
    with pytest.raises(ValueError, match=r"received a stepwise.Trajectory without \['basis', 'features'"):
        Problem.load(path)
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        Problem.load(tmp_path / "absent.npz")


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "p.npz"
    _npz.write(path, "K", {"a": np.ones(3)}, {})
    old = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(np, "savez", full_disk)
        _npz.write(path, "K", {"a": np.zeros(3)}, {})
    with pytest.raises(ValueError, match="a: expected an array of numbers, received object"):
        _npz.write(path, "K", {"a": np.array([{}])}, {})
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["p.npz"]


def test_a_kernel_computed_in_float32_and_widened_wants_a_cutoff(x64):
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    K = (features @ features.T).astype(np.float64)
    with pytest.raises(ValueError, match="K: expected a positive semi-definite kernel"):
        from_gram(K)
    assert from_gram(K, cutoff=40 * np.finfo(np.float32).eps).gamma.size == 5


def test_a_problem_saved_without_views_takes_no_kernel(x64, tmp_path):
    from_gram(np.eye(4)).save(tmp_path / "p.npz")
    with pytest.raises(ValueError, match="kernel: expected None"):
        Problem.load(tmp_path / "p.npz", kernel=linear)
