"""Checkpoints: damaged, foreign and unwritable ones are named, and no intact one is lost."""

import gc
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from stepwise.training.checkpoints import Checkpoints


@pytest.fixture(autouse=True)
def collect_coroutines():
    """Collect the coroutines that orbax leaves behind when it raises.

    Otherwise they would raise a warning in a later test, when they are collected.
    """
    yield
    gc.collect()


def state(step):
    return {
        "a": jnp.arange(6.0).reshape(2, 3) * step,
        "b": [jnp.asarray(step), np.full(3, np.nan)],
        "empty": {},
    }


def save_steps(folder, steps=(1, 2), **about):
    warnings = []
    store = Checkpoints(folder, about, warn=warnings.append)
    for step in steps:
        store.save(step, state(step))
    return store, warnings


def files(folder, step):
    return sorted(
        path
        for path in (folder / f"step_{step}").rglob("*")
        if path.is_file() and path.stat().st_size
    )


def test_the_newest_is_restored_and_the_oldest_removed(tmp_path):
    store, warnings = save_steps(tmp_path, (1, 5, 9))
    assert store.steps() == [5, 9]
    step, restored = store.restore(state(0))
    assert step == 9 and not warnings
    np.testing.assert_array_equal(restored["a"], state(9)["a"])
    assert restored["b"][0] == 9 and np.isnan(restored["b"][1]).all() and restored["empty"] == {}
    assert Checkpoints(tmp_path / "other", {}).restore(state(0)) is None


@pytest.mark.filterwarnings("ignore")  # orbax leaves coroutines behind when it raises
def test_a_damaged_checkpoint_is_refused_by_name_and_the_previous_one_is_used(tmp_path):
    damaged = 0
    names = [
        path.relative_to(tmp_path / "0" / "step_2")
        for path in files((save_steps(tmp_path / "0"), tmp_path / "0")[1], 2)
    ]
    data = [
        name for name in names if name.parts[:2] in (("state", "d"), ("state", "manifest.ocdbt"))
    ]
    assert data
    for i, name in enumerate([*data[:2], names[0]]):
        folder = tmp_path / str(i + 1)
        store, warnings = save_steps(folder)
        store.close()
        path = next(path for path in files(folder, 2) if path.name == name.name or name in data)
        path = (
            path
            if name not in data
            else next(p for p in files(folder, 2) if p.parts[-2] == name.parts[-2])
        )
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        warnings = []
        store = Checkpoints(folder, {}, warn=warnings.append)
        step, restored = store.restore(state(0))
        np.testing.assert_array_equal(restored["a"], state(step)["a"])
        if step == 1:
            damaged += 1
            assert len(warnings) == 1 and "step_2: refused" in warnings[0]
            assert [p.name for p in folder.iterdir() if p.name.startswith("refused")] == [
                "refused_step_2_0"
            ]
            store.save(2, state(2))
            assert store.restore(state(0))[0] == 2
    assert damaged >= 2


@pytest.mark.filterwarnings("ignore")
def test_a_flipped_bit_is_detected(tmp_path):
    numbers = {"w": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}
    store = Checkpoints(tmp_path, {}, warn=(warnings := []).append)
    for step in (1, 2):
        store.save(step, numbers)
    store.close()
    largest = max(files(tmp_path, 2), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    store = Checkpoints(tmp_path, {}, warn=warnings.append)
    step, restored = store.restore(numbers)
    np.testing.assert_array_equal(restored["w"], numbers["w"])
    assert step == 1 and "step_2: refused" in warnings[0]


def test_a_checkpoint_of_another_run_is_refused_by_name_and_stays(tmp_path):
    save_steps(tmp_path, seed=1)[0].close()
    warnings = []
    store = Checkpoints(tmp_path, {"seed": 2}, warn=warnings.append)
    with pytest.raises(
        ValueError, match=r"expected a checkpoint of this run, none is usable; .*step_2: refused"
    ):
        store.restore(state(0))
    assert len(warnings) == 2 and "another run (it differs in ['seed'])" in warnings[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_1", "step_2"]


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_other_shapes_is_refused_by_name(tmp_path):
    store, warnings = save_steps(tmp_path, (1,))
    with pytest.raises(ValueError, match="none is usable"):
        store.restore(state(0) | {"a": jnp.zeros((3, 3))})
    assert "step_1: refused" in warnings[0]


@pytest.mark.filterwarnings("ignore")
def test_a_full_disk_loses_no_earlier_checkpoint(tmp_path):
    store, _ = save_steps(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(OSError, match="the checkpoint of step 3 could not be written"):
            store.save(3, state(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.steps() == [1, 2]
    assert store.restore(state(0))[0] == 2
    store.save(3, state(3))
    assert store.restore(state(0))[0] == 3
