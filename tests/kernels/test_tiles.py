import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwise import kernels

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 4, 2)), RNG.normal(size=(9, 4, 2))
K = np.exp(-((X[:, None] - X[None]) ** 2).sum((2, 3)) / 2)
KXY = np.exp(-((X[:, None] - Y[None]) ** 2).sum((2, 3)) / 2)


@pytest.mark.parametrize("tile", [1, 2, 7, 22, 23, 1024])
def test_tiles_of_any_size_give_the_same_matrix(tile, x64, tmp_path):
    kernel = kernels.rbf(1.0)
    whole = kernels.gram(kernel, X, tile=tile)
    np.testing.assert_allclose(whole, K, rtol=1e-12)
    np.testing.assert_array_equal(whole, whole.T)
    np.testing.assert_allclose(kernels.gram(kernel, X, Y, tile=tile), KXY, rtol=1e-12)
    stored = kernels.gram(kernel, X, tile=tile, path=tmp_path / "K.npy")
    assert isinstance(stored, np.memmap)
    np.testing.assert_array_equal(stored, whole)


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 20), n2=st.integers(1, 20), tile=st.integers(1, 25))
def test_sizes_that_are_no_multiple_of_the_tile_give_the_whole_matrix(n, n2, tile):
    x, y = X.repeat(2, axis=0)[:n], X.repeat(2, axis=0)[-n2:]
    values = kernels.gram(kernels.linear(), x, y, tile=tile)
    np.testing.assert_allclose(values, x.reshape(n, -1) @ y.reshape(n2, -1).T, rtol=1e-4, atol=1e-5)


def test_only_tiles_on_and_above_the_diagonal_are_evaluated():
    calls = []

    def kernel(a, b):
        calls.append(1)
        return kernels.linear()(a, b)

    kernels.gram(kernel, X, tile=6)
    # Four rows of tiles have ten on or above the diagonal; one tile and its mirror image are
    # evaluated to check the symmetry.
    assert len(calls) <= 12


class StopError(Exception):
    pass


def stopping(after):
    count = [0]

    def kernel(a, b):
        count[0] += 1
        if count[0] > after:
            raise StopError
        return kernels.rbf(1.0)(a, b)

    return kernel


@pytest.mark.parametrize("after", [3, 5, 9])
def test_an_interrupted_run_resumes_to_the_same_bits(after, x64, tmp_path):
    path = tmp_path / "K.npy"
    with pytest.raises(StopError):
        kernels.gram(stopping(after), X, tile=5, path=path)
    assert not path.exists()
    done = len((tmp_path / "K.npy.tiles").read_text().splitlines()) - 1
    assert 0 <= done < 15
    count = [0]

    def counted(a, b):
        count[0] += 1
        return kernels.rbf(1.0)(a, b)

    whole = kernels.gram(kernels.rbf(1.0), X, tile=5)
    np.testing.assert_array_equal(kernels.gram(counted, X, tile=5, path=path), whole)
    # The first and the last written tile are evaluated to recognise the kernel, a pair of tiles to
    # check the symmetry.
    assert count[0] <= 15 - done + 5
    again = kernels.gram(kernels.rbf(1.0), X, tile=5, path=path)  # opens the complete file
    np.testing.assert_array_equal(again, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["K.npy", "K.npy.tiles"]


def test_a_damaged_tile_is_evaluated_again(x64, tmp_path):
    path, part = tmp_path / "K.npy", tmp_path / "K.npy.part"
    with pytest.raises(StopError):
        kernels.gram(stopping(9), X, tile=5, path=path)
    damaged = np.lib.format.open_memmap(part, mode="r+")
    damaged[7, 1] += 1e-9  # the mirror image of the second tile
    damaged.flush()
    whole = kernels.gram(kernels.rbf(1.0), X, tile=5)
    np.testing.assert_array_equal(kernels.gram(kernels.rbf(1.0), X, tile=5, path=path), whole)


def test_a_complete_file_with_a_damaged_tile_is_refused(x64, tmp_path):
    path = tmp_path / "K.npy"
    kernels.gram(kernels.rbf(1.0), X, tile=5, path=path)
    damaged = np.lib.format.open_memmap(path, mode="r+")
    damaged[12, 12] += 1e-9
    damaged.flush()
    message = (
        r"received a file with 1 of 15 tiles damaged or not in K\.npy\.tiles, the first at inputs "
        r"10\.\.\. against 10"
    )
    with pytest.raises(ValueError, match=message):
        kernels.gram(kernels.rbf(1.0), X, tile=5, path=path)


@pytest.mark.parametrize("tile", [8, 6])
def test_eight_devices_compute_the_values_of_one(tile, tmp_path):
    code = """
        import sys
        import jax, numpy as np
        from stepwise import kernels
        assert len(jax.devices()) == 8
        sharded = []

        def kernel(a, b):
            sharded.append(len(a.sharding.device_set))
            return kernels.rbf(1.0)(a, b)

        np.save(sys.argv[2], kernels.gram(kernel, np.load(sys.argv[1]), tile=int(sys.argv[3])))
        assert set(sharded) == {8 if int(sys.argv[3]) % 8 == 0 else 1}, sharded
    """
    np.save(tmp_path / "x.npy", X)
    flags = {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
    }
    call = [
        sys.executable,
        "-c",
        textwrap.dedent(code),
        tmp_path / "x.npy",
        tmp_path / "K.npy",
        str(tile),
    ]
    subprocess.run(call, env=os.environ | flags, check=True, timeout=300)
    np.testing.assert_allclose(np.load(tmp_path / "K.npy"), K, rtol=1e-12)


def test_an_incomplete_journal_line_counts_as_a_missing_tile(x64, tmp_path):
    path = tmp_path / "K.npy"
    with pytest.raises(StopError):
        kernels.gram(stopping(8), X, tile=5, path=path)
    journal = tmp_path / "K.npy.tiles"
    journal.write_text(journal.read_text() + "[5, 1")
    np.testing.assert_allclose(kernels.gram(kernels.rbf(1.0), X, tile=5, path=path), K, rtol=1e-12)


@pytest.mark.slow
def test_a_killed_and_restarted_run_gives_the_same_bits(tmp_path):
    code = textwrap.dedent(
        """
        import sys, time
        import numpy as np
        from stepwise import kernels

        def slow(a, b):
            time.sleep(0.02)
            return kernels.rbf(1.0)(a, b)

        kernels.gram(slow, np.load(sys.argv[1]), tile=4, path=sys.argv[2])
        """
    )
    x = RNG.normal(size=(60, 3)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    path, kills = tmp_path / "K.npy", 0
    journal = tmp_path / "K.npy.tiles"
    while not path.exists():
        before = journal.read_text().count("\n") if journal.exists() else 0
        child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "x.npy", path])
        while child.poll() is None and not (
            journal.exists() and journal.read_text().count("\n") > before + 45
        ):
            time.sleep(0.01)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
    assert kills >= 2
    np.testing.assert_array_equal(np.load(path), kernels.gram(kernels.rbf(1.0), x, tile=4))


def test_a_file_of_another_matrix_is_refused_and_kept(x64, tmp_path):
    path = tmp_path / "K.npy"
    kernels.gram(kernels.rbf(1.0), X, tile=5, path=path)
    before = path.read_bytes()
    for kernel, x, tile, contents in (
        (
            kernels.rbf(2.0),
            X,
            5,
            r"another kernel's values: 0\.\d+.* where this kernel has 0\.\d+.*, inputs \d+ and \d+",
        ),
        (kernels.rbf(1.0), X + 1e-9, 5, "a matrix of other inputs"),
        (kernels.rbf(1.0), X[:20], 5, r"a matrix of shape \[23, 23\], other inputs"),
        (kernels.rbf(1.0), X, 6, "a matrix of tile 5"),
        (lambda a, b: kernels.rbf(1.0)(a, b).astype("float32"), X, 5, "a matrix of dtype <f8"),
    ):
        with pytest.raises(
            ValueError,
            match=rf"K\.npy: expected this kernel.s values .* received {contents}; remove it",
        ):
            kernels.gram(kernel, x, tile=tile, path=path)
    path.write_bytes(b"nothing")
    with pytest.raises(
        ValueError, match=r"received a file that is not \.npy \(.*\); remove it or name another"
    ):
        kernels.gram(kernels.rbf(1.0), X, tile=5, path=path)
    path.write_bytes(before)
    (tmp_path / "K.npy.tiles").unlink()
    with pytest.raises(
        ValueError, match=r"received float64 \[23, 23\] without a journal beside it"
    ):
        kernels.gram(kernels.rbf(1.0), X, tile=5, path=path)


def test_an_incomplete_file_of_another_matrix_is_refused_and_kept(x64, tmp_path):
    path = tmp_path / "K.npy"
    with pytest.raises(StopError):
        kernels.gram(stopping(8), X, tile=5, path=path)
    part = (tmp_path / "K.npy.part").read_bytes()
    with pytest.raises(
        ValueError,
        match=r"K\.npy\.part: expected this kernel's values .* received another kernel's",
    ):
        kernels.gram(kernels.rbf(3.0), X, tile=5, path=path)
    assert (tmp_path / "K.npy.part").read_bytes() == part


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (
            lambda a, b: jnp.full((len(a), len(b)), jnp.nan),
            r"kernel, inputs 0\.\.\. against 0\.\.\.: expected finite",
        ),
        (
            lambda a, b: kernels.linear()(a, b)[:, :1],
            r"kernel: expected values \[5, 5\], received float64 \[5, 1\]",
        ),
        (
            lambda a, b: kernels.linear()(a, b) + jnp.arange(len(b))[None],
            "expected a symmetric kernel",
        ),
        (
            lambda a, b: a.reshape(len(a), -1).sum(1)[:, None] + 0 * kernels.linear()(a, b),
            "expected a symmetric kernel",
        ),
    ],
)
def test_a_function_that_is_not_a_kernel_is_refused_with_its_tile(kernel, message, x64, tmp_path):
    for path in (None, tmp_path / "K.npy"):
        with pytest.raises(ValueError, match=message):
            kernels.gram(kernel, X, tile=5, path=path)
    assert not list(tmp_path.iterdir())


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"x2: expected \[n, \*\(4, 2\)\] as x, received float32 \[9, 4, 1\]"
    ):
        kernels.gram(kernels.linear(), X.astype("float32"), Y[..., :1].astype("float32"))
    with pytest.raises(ValueError, match="x: expected at least one input"):
        kernels.gram(kernels.linear(), X[:0])
    with pytest.raises(ValueError, match="tile: expected a positive whole number, received 0"):
        kernels.gram(kernels.linear(), X, tile=0)


def test_the_journal_identifies_the_matrix(x64, tmp_path):
    kernels.gram(kernels.rbf(1.0), X, tile=12, path=tmp_path / "K.npy")
    header, *tiles = map(json.loads, (tmp_path / "K.npy.tiles").read_text().splitlines())
    assert header["shape"] == [23, 23] and header["tile"] == 12
    assert [corner for *corner, _ in tiles] == [[0, 0], [0, 12], [12, 12]]
    stored = np.load(tmp_path / "K.npy")
    corner = stored[:12, 12:].tobytes(), stored[12:, :12].tobytes()
    assert tiles[1][2] == zlib.crc32(corner[1], zlib.crc32(corner[0]))


def test_a_foreign_file_beside_an_interrupted_one_is_refused(x64, tmp_path):
    path = tmp_path / "K.npy"
    with pytest.raises(StopError):
        kernels.gram(stopping(8), X, tile=5, path=path)
    for other, contents in (
        (np.zeros((3, 3)), r"float64 \[3, 3\]"),
        (K, "a file with 15 of 15 tiles damaged or not in"),
    ):
        np.save(path, other)
        with pytest.raises(ValueError, match=f"received {contents}"):
            kernels.gram(kernels.rbf(1.0), X, tile=5, path=path)


def test_a_kernel_that_differs_only_beyond_the_first_tile_is_recognised(x64, tmp_path):
    blank = np.concatenate([np.zeros((5, 4, 2)), X])
    kernels.gram(kernels.linear(), blank, tile=5, path=tmp_path / "K.npy")
    with pytest.raises(ValueError, match=r"another kernel's values: .* inputs 2[5-7] and 2[5-7];"):
        kernels.gram(kernels.polynomial(3, offset=0.0), blank, tile=5, path=tmp_path / "K.npy")
