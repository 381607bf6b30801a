"""The methods of a problem: coordinates, precisions, embeddings of new inputs, errors, saving."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stepwise import _npz, kernels
from stepwise.moments import CENTERS
from stepwise.problem import Problem, from_gram, from_kernel, from_views
from stepwise.problem.problem import require_modes
from tests import problems

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 7)) + 2
X2 = X + 0.8 * RNG.normal(size=X.shape)
NEW = RNG.normal(size=(5, 7)) + 2
WIDE, WIDE2 = (np.concatenate([x, np.zeros((12, 40))], 1) @ problems.rotation(47) for x in (X, X2))
linear, quadratic = kernels.linear(), kernels.polynomial(2)


def test_weights_and_coordinates_are_inverse_on_the_span(x64):
    p = from_views(WIDE, WIDE2)
    A = RNG.normal(size=(3, p.gamma.size))
    np.testing.assert_allclose(p.coordinates(p.weights(A)), A, atol=1e-12)
    W = RNG.normal(size=(3, 47))
    np.testing.assert_allclose(
        p.weights(p.coordinates(W)), W @ problems.projector(p.basis), atol=1e-11
    )
    np.testing.assert_allclose(
        p.embed(A, NEW @ np.eye(7, 47)),
        (NEW @ np.eye(7, 47) - (WIDE + WIDE2).mean(0) / 2) @ p.weights(A).T,
    )
    with pytest.raises(
        ValueError, match="coordinates: expected a linear problem, built by from_views"
    ):
        from_kernel(linear, X, X2).coordinates(W)
    with pytest.raises(
        ValueError,
        match=r"W: expected 47 columns, one for each entry of an input, received float64",
    ):
        p.coordinates(W[:, :7])


def test_a_start_has_the_given_scale(dtype):
    A = problems.modes(np.ones(50), dtype).start(jax.random.key(0), 40, 1e-3)
    assert A.dtype == dtype
    assert np.std(A) == pytest.approx(1e-3, rel=0.05)


KINDS = {
    list: lambda v: v.tolist(),
    jnp.bfloat16: lambda v: jnp.asarray(v, jnp.bfloat16),
    **{
        kind: (lambda v, kind=kind: v.astype(kind))
        for kind in (np.float32, np.float64, np.int64, np.uint8)
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_of_any_kind_give_results_in_their_own_precision(kind, dtype):
    whole = np.round(10 * np.abs(X)).astype(int)
    x, x2 = KINDS[kind](whole), KINDS[kind](whole[::-1] % 7)
    p = from_views(x, x2)
    wide = dtype == "float64" and kind in (np.float64, np.int64, np.uint8, list)
    for field in (
        p.gamma,
        p.features,
        p.basis,
        p.offset,
        p.lowest,
        p.predict(1),
        p.embed(p.optimum(1), x),
    ):
        assert field.dtype == ("float64" if wide else "float32")
    np.testing.assert_allclose(
        p.gamma, from_views(whole, whole[::-1] % 7).gamma, rtol=1e-4, atol=1e-4
    )


def test_images_are_flattened(x64):
    image = X[:, :6].reshape(12, 2, 3, 1), X2[:, :6].reshape(12, 2, 3, 1)
    p = from_views(*image)
    np.testing.assert_allclose(p.gamma, from_views(X[:, :6], X2[:, :6]).gamma, rtol=1e-12)
    np.testing.assert_allclose(p.embed(p.optimum(2), image[0]), p.predict(2)[:12], atol=1e-11)


def test_a_kernel_accepts_lists_too(x64):
    p = from_kernel(linear, X.tolist(), X2.tolist())
    np.testing.assert_allclose(p.embed(p.optimum(2), X.tolist()), p.predict(2)[:12], atol=1e-9)


def test_a_problem_passes_through_jit_and_tree_map(x64):
    p = from_kernel(quadratic, X[:, :3], X2[:, :3])
    out = jax.jit(lambda p, A: p.embed(A, NEW[:, :3]))(p, p.optimum(2))
    np.testing.assert_allclose(out, p.embed(p.optimum(2), NEW[:, :3]), atol=1e-10)
    assert isinstance(jax.tree.map(lambda leaf: leaf, p), Problem)


def test_truncation_keeps_the_first_modes_and_the_lowest(x64):
    p = from_views(X, X2)
    cut = p.truncate(3)
    np.testing.assert_array_equal(cut.gamma, p.gamma[:3])
    np.testing.assert_array_equal(cut.predict(3), p.predict(3))
    assert cut.lowest == p.lowest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: from_views(X, X2[:3]),
            r"x2: expected shape \[12, 7\] as x, received float64 \[3, 7\]",
        ),
        (
            lambda: from_views(X[:0], X2[:0]),
            r"x: expected at least one view .* received float64 \[0, 7\]",
        ),
        (
            lambda: from_views(X * np.nan, X2),
            "x: expected finite entries, received 84 of 84 not finite",
        ),
        (lambda: from_views(X > 0, X2), "x: expected real numbers, received bool"),
        (lambda: from_gram(np.eye(3)), r"K: expected a square matrix \[2n, 2n\]"),
        (lambda: from_gram(np.ones((2, 4))), r"K: expected a square matrix \[2n, 2n\]"),
        (
            lambda: from_gram(np.triu(np.ones((4, 4)))),
            r"K: expected a symmetric matrix .* received \|K - Kᵀ\| up to 1.0e",
        ),
        (
            lambda: from_gram(np.diag([1.0, 1, 1, -1])),
            "positive semi-definite.*eigenvalues from -1.000e",
        ),
        (lambda: from_gram(np.zeros((4, 4))), "that differ from one another"),
        (
            lambda: from_kernel(lambda a, b: jnp.eye(4), X, X2),
            r"kernel: expected values \[24, 24\]",
        ),
        (lambda: from_kernel(linear, X, X2[:3]), r"x2: expected shape \[12, 7\] as x"),
        (
            lambda: from_gram(np.eye(4), modes=5),
            "modes: expected a whole number in 1 ... 4, received 5",
        ),
        (lambda: require_modes(1.5, 4), "modes: expected a whole number in 1 ... 4, received 1.5"),
        (
            lambda: from_gram(np.eye(4), cutoff=-1e-3),
            r"cutoff: expected a number in \[0, 1\).* received -0.001",
        ),
        (
            lambda: from_gram(np.eye(4), cutoff=np.nan),
            r"cutoff: expected a number in \[0, 1\).* received nan",
        ),
        (lambda: from_views(X[:0], X2[:0]), "x: expected at least one"),
        (lambda: from_kernel(linear, X[:0], X2[:0]), "x: expected at least one"),
        (
            lambda: from_views(X, X2).embed(np.ones((2, 7)), np.ones((1, 3))),
            "inputs: expected 7 numbers per input",
        ),
        (
            lambda: from_gram(np.eye(4)).embed(np.ones((2, 4)), np.ones((1, 3))),
            "inputs: expected 4 kernel values, one for each view, per input",
        ),
        (
            lambda: from_views(X, X2).embed(np.ones((2, 3)), X),
            "A: expected 7 columns, one for each mode",
        ),
    ],
)
def test_bad_arguments_are_rejected_by_name(call, message, x64):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "make", [lambda: from_views(X, X2), lambda: from_gram(quadratic(WIDE, WIDE))]
)
def test_a_saved_problem_loads_to_the_same_bits(make, dtype, tmp_path):
    p = make()
    p.save(tmp_path / "p")
    q = Problem.load(tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    for name in ("gamma", "features", "basis", "offset", "lowest"):
        a, b = np.asarray(getattr(p, name)), np.asarray(getattr(q, name))
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    assert (q.center, q.linear, q.n_pairs) == (p.center, p.linear, p.n_pairs)


def test_a_saved_kernel_problem_accepts_its_kernel_again_or_embeds_rows(x64, tmp_path):
    p = from_kernel(quadratic, X, X2, center="pooled")
    p.save(tmp_path / "p.npz")
    A, expected = p.optimum(2), p.embed(p.optimum(2), NEW)
    again, rows = (
        Problem.load(tmp_path / "p.npz", kernel=quadratic),
        Problem.load(tmp_path / "p.npz"),
    )
    np.testing.assert_array_equal(again.embed(A, NEW), expected)
    np.testing.assert_allclose(
        rows.embed(A, quadratic(NEW, np.concatenate([X, X2]))), expected, atol=1e-12
    )


def test_a_problem_saved_without_views_rejects_a_kernel(x64, tmp_path):
    from_gram(np.eye(4)).save(tmp_path / "p.npz")
    with pytest.raises(ValueError, match="kernel: expected None"):
        Problem.load(tmp_path / "p.npz", kernel=linear)


@pytest.mark.parametrize("modes", [None, 2])
@pytest.mark.parametrize("center", CENTERS)
def test_a_saved_problem_accepts_only_its_own_kernel(center, modes, dtype, tmp_path):
    most = []

    def watched(a, b):
        most.append(max(len(a), len(b)))
        return kernels.rbf(3.0)(a, b)

    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 7)).astype(dtype)
    x2 = (x + 0.3 * rng.normal(size=x.shape)).astype(dtype)
    p = from_kernel(watched, x, x2, center=center, modes=modes, tile=8)
    p.save(tmp_path / "p")
    assert Problem.load(tmp_path / "p", kernel=watched).tile == max(most) == 8
    for other in (
        kernels.rbf(3.1),
        kernels.linear(),
        lambda a, b: 1.1 * watched(a, b),
        lambda a, b: jnp.nan * a @ b.T,
    ):
        with pytest.raises(
            ValueError,
            match="kernel: expected the kernel that the problem was built with, received one",
        ):
            Problem.load(tmp_path / "p", kernel=other)
    with pytest.raises(ValueError, match=r"kernel: expected values \[8, 8\], received"):
        Problem.load(tmp_path / "p", kernel=lambda a, b: watched(a, b)[:, :1])


@pytest.mark.parametrize("center", CENTERS)
def test_a_constant_changes_the_kernel_unless_the_problem_is_centred(center, x64, tmp_path):
    from_kernel(linear, X, X2, center=center).save(tmp_path / "p")
    shifted = kernels.polynomial(1, offset=3.0)
    if center == "none":
        with pytest.raises(
            ValueError, match="kernel: expected the kernel that the problem was built with"
        ):
            Problem.load(tmp_path / "p", kernel=shifted)
    else:
        again = Problem.load(tmp_path / "p", kernel=shifted)
        np.testing.assert_allclose(
            again.embed(np.eye(7), NEW), Problem.load(tmp_path / "p", linear).embed(np.eye(7), NEW)
        )


def test_foreign_and_damaged_files_are_rejected_by_name(tmp_path):
    path = tmp_path / "p.npz"
    from_gram(np.eye(4, dtype=np.float32)).save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [good[:cut] for cut in (0, 1, 100, len(good) // 2, len(good) - 1)] + [
        b"x" * 300,
        pickle.dumps([1]),
    ]
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
            np.testing.assert_array_equal(
                loaded.gamma, from_gram(np.eye(4, dtype=np.float32)).gamma
            )
    np.savez(path, gamma=np.ones(3))
    with pytest.raises(ValueError, match="received something else"):
        Problem.load(path)
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(ValueError, match="received something else"):
        Problem.load(tmp_path / "a.npy")
    _npz.write(path, "stepwise.Trajectory", {"gamma": np.ones(3)}, {})
    with pytest.raises(
        ValueError, match=r"received a stepwise.Trajectory without \['basis', 'features'"
    ):
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
