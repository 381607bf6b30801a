"""Callbacks see each sample once, resume with the run and do not change it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from stepwise import losses, models, probes, spectra
from stepwise.methods import Objective
from stepwise.training import callbacks, loop, runs
from stepwise.training.calls import Calls
from stepwise.training.log import RunLog
from stepwise.training.step import Step
from tests.training import small

LABELS = np.arange(40) % 3
SETS = (small.PIXELS[:28], LABELS[:28], small.PIXELS[28:], LABELS[28:])


class Mean:
    """A callback with a state: the running mean of the embeddings, and the steps it has seen."""

    def __init__(self, fail_at=None):
        self.total, self.steps, self.fail_at = np.zeros(4), [], fail_at

    def __call__(self, event):
        self.total += event.embeddings[0].mean(axis=0)
        self.steps.append(event.step)
        if event.step == self.fail_at:
            raise ZeroDivisionError("no reason")
        return {"mean": self.total.sum() / len(self.steps), "count": len(self.steps)}

    def state(self):
        return {"total": self.total, "steps": self.steps, "nested": (None, [np.float32(0.5)])}

    def load(self, state):
        assert state["nested"] == (None, [0.5])
        self.total, self.steps = state["total"], [int(step) for step in state["steps"]]


def rank(event):
    return {
        "rank": spectra.rankme(np.concatenate(event.embeddings)),
        "train": event.measured["train_loss"],
    }


def train(folder, *functions, **options):
    return loop.train(
        small.encoder(),
        small.PIXELS,
        Objective(losses.vicreg),
        small.plan(**({"steps": 40, "records": 12, "lr": 0.01} | options)),
        folder=folder,
        callbacks=functions,
    )


def rows(folder):
    return [json.loads(line) for line in (folder / "callbacks.jsonl").read_text().splitlines()]


def assert_same_run(one, other):
    one, other = small.numbers(one), small.numbers(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    return SimpleNamespace(folder=folder, run=train(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, mean = tmp_path_factory.mktemp("whole"), Mean()
    return SimpleNamespace(folder=folder, mean=mean, run=train(folder, mean, rank))


def test_events_come_at_the_measured_steps_with_what_is_measured(tmp_path):
    events, networks = [], []

    def record(event):
        events.append(event)
        networks.append(event.network())

    run = train(tmp_path, record)
    stats = run.trajectory.stats
    assert [event.step for event in events] == stats["step"].tolist() and events[0].step == 0
    assert {event.folder for event in events} == {tmp_path}
    for i, event in enumerate(events):
        z1, z2 = event.embeddings
        assert z1.shape == z2.shape == (16, 4)
        np.testing.assert_allclose(event.measured["loss"], losses.vicreg(z1, z2), rtol=1e-5)
        np.testing.assert_array_equal(event.measured["loss"], run.trajectory.loss[i])
        assert event.measured["train_loss"] == stats["train_loss"][i]
        for name, values in event.hidden.items():
            expected = spectra.covariance_eigenvalues(values)
            np.testing.assert_array_equal(event.measured[f"stages/{name}"], expected)
    start, *_, last = (models.evaluation(each) for each in networks)
    images = small.PIXELS[:, :6, :6].astype("float32") / 255
    for (apply, params), network in ((start, small.encoder()), (last, run.encoder)):
        network.eval()
        np.testing.assert_array_equal(apply(params, images), network(images))
    assert not (tmp_path / "callbacks.jsonl").exists() and not (tmp_path / "callbacks").exists()


def test_callbacks_change_neither_the_run_nor_its_log_nor_its_checkpoints(bare, whole):
    assert_same_run(whole.run, bare.run)
    logs = [(each.folder / "log.jsonl").read_text() for each in (bare, whole)]
    assert logs[0] == logs[1]
    trees = [
        sorted(
            str(path.relative_to(each.folder))
            for path in (each.folder / "checkpoints").glob("step_*/*")
        )
        for each in (bare, whole)
    ]
    assert trees[0] == trees[1]
    assert not list(bare.folder.glob("callbacks*"))


def test_numbers_are_written_for_each_sample(whole):
    assert [row["step"] for row in rows(whole.folder)] == whole.run.trajectory.stats[
        "step"
    ].tolist()
    assert [row["count"] for row in rows(whole.folder)] == list(range(1, len(whole.mean.steps) + 1))
    ranks = [row["rank"] for row in rows(whole.folder)]
    np.testing.assert_allclose(ranks, whole.run.trajectory.stats["rankme"], rtol=1e-6)
    steps = {path.name for path in (whole.folder / "checkpoints").glob("step_*")}
    assert {path.stem for path in (whole.folder / "callbacks").iterdir()} == steps
    events = b"".join(path.read_bytes() for path in (whole.folder / "events").iterdir())
    assert b"callback/count" in events and b"callback/rank" in events


@pytest.mark.parametrize("after", [3, 17, 36])
def test_an_interrupted_run_resumes_to_the_same_numbers_and_states(
    after, whole, tmp_path, monkeypatch
):
    small.interrupt(lambda: train(tmp_path, Mean(), rank), monkeypatch, after=after)
    with (tmp_path / "callbacks.jsonl").open("a") as file:
        file.write('{"step": 39, "me')  # as a process leaves it that is killed
    mean = Mean()
    run = train(tmp_path, mean, rank)
    assert_same_run(run, whole.run)
    assert (tmp_path / "callbacks.jsonl").read_bytes() == (
        whole.folder / "callbacks.jsonl"
    ).read_bytes()
    assert mean.steps == whole.mean.steps
    np.testing.assert_array_equal(mean.total, whole.mean.total)


@pytest.mark.parametrize("at", [0, 15, 40])
def test_a_failed_callback_saves_the_run_which_resumes_with_the_same_sample(at, whole, tmp_path):
    grid = {"record_at": sorted({*whole.run.trajectory.stats["step"].tolist(), 15})}
    reference, folder = Mean(), tmp_path / "reference"
    train(folder, rank, reference, **grid)
    message = rf"the callback Mean failed at step {at} \(ZeroDivisionError: no reason\); the run is"
    for _ in range(2):  # the second attempt fails in the same way
        with pytest.raises(callbacks.CallbackError, match=message) as error:
            train(tmp_path, rank, Mean(at), **grid)
        assert isinstance(error.value.__cause__, ZeroDivisionError)
        assert (tmp_path / "checkpoints" / f"step_{at}").is_dir()
    mean = Mean()
    run = train(tmp_path, rank, mean, **grid)
    assert run.finished and mean.steps == reference.steps == grid["record_at"]
    np.testing.assert_array_equal(mean.total, reference.total)
    for name in ("callbacks.jsonl", "log.jsonl"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    again = Mean(at)
    assert_same_run(train(tmp_path, rank, again, **grid), run)
    assert again.steps == reference.steps  # loaded and not called


def test_a_failure_of_a_callback_without_a_state_leaves_no_state_file(tmp_path):
    fail = [True]

    def once(event):
        if event.step == 40 and fail:
            raise RuntimeError("once")
        return {"one": 1}

    with pytest.raises(callbacks.CallbackError, match="the callback once failed at step 40"):
        train(tmp_path, once)
    fail.clear()
    train(tmp_path, once)
    assert not list((tmp_path / "callbacks").iterdir())
    assert rows(tmp_path)[-1] == {"step": 40, "one": 1.0}


def test_a_finished_run_calls_no_callbacks(whole, monkeypatch):
    files = {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(Step, "advance", None)
    mean, called = Mean(), []
    train(whole.folder, mean, called.append)
    assert not called and mean.steps == whole.mean.steps  # its state is loaded
    assert files == {path: path.read_bytes() for path in whole.folder.rglob("*") if path.is_file()}


def test_a_callback_that_joins_a_begun_run_starts_at_its_checkpoint(tmp_path, monkeypatch, caplog):
    small.interrupt(lambda: train(tmp_path), monkeypatch, after=17)
    mean = Mean()
    run = train(tmp_path, mean)
    steps = run.trajectory.stats["step"]
    assert mean.steps == steps[steps > 10].tolist() == [row["step"] for row in rows(tmp_path)]
    assert "the checkpoint of step 10 has no state of the callback Mean" in caplog.text


def test_a_diverged_run_calls_its_last_sample_and_ends(tmp_path):
    sink, neighbours = [], callbacks.NearestNeighbours(*SETS, k=3)
    options = {"lr": 1e30, "steps": 5, "record_at": range(5)}
    run = train(tmp_path, neighbours, lambda event: sink.append(event.scalars()), **options)
    assert run.finished and run.trajectory.result.name == "diverged"
    assert len(sink) == len(run.trajectory.times)
    assert all(np.isfinite(list(each.values())).all() for each in sink)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "its value: expected None or a dict of numbers, received int"),
        ({"a": "b"}, "a: expected a real number, received 'b'"),
        ({"a": np.zeros(2)}, r"a: expected a real number, received float64 \[2\]"),
        ({"step": 1}, "expected names that no other number has, received 'step'"),
        ({"taken": 1}, "expected names that no other number has, received 'taken'"),
    ],
)
def test_values_that_are_no_numbers_are_refused(value, message):
    calls = Calls([lambda event: {"taken": 1}, lambda event: value], small.encoder())
    state = {"params": {"encoder": {}}, "stats": {"encoder": {}}}
    log = RunLog([2], [0.0], {"loss": 1.0})
    with pytest.raises(callbacks.CallbackError, match=message) as error:
        calls.call(2, {}, (np.zeros((1, 1)), np.zeros((1, 1)), {}), state, log)
    assert "the callback <lambda>#2 failed at step 2 (ValueError" in str(error.value)


def test_what_cannot_be_called_or_saved_is_refused_before_the_training():
    class Half:
        def __call__(self, event):
            pass

        def state(self):
            return {}

    class Odd(Half):
        def load(self, state):
            pass

        def state(self):
            return {"odd": object()}

    for value, message in [
        (3, r"callbacks\[1\]: expected a function, received 3"),
        (Half(), r"callbacks\[1\]: expected a function with both methods state and load"),
        (Odd(), "state of Odd: expected dicts .* of arrays of numbers, received object"),
    ]:
        with pytest.raises(ValueError, match=message):
            train(None, rank, value)


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_online_probes_are_those_of_the_encoder_afterwards(kind):
    if kind == "knn":
        probe, accuracy, options = callbacks.NearestNeighbours, probes.knn_accuracy, {"k": 3}
    else:
        probe, accuracy, options = callbacks.LinearProbe, probes.linear_accuracy, {"penalty": 0.1}
    values = []
    callbacks._forward.clear_cache()
    functions = (probe(*SETS, **options), lambda event: values.append(event.numbers))
    run = train(None, *functions, steps=5, records=3)
    x, y = (probes.features(run.encoder, each) for each in (SETS[0], SETS[2]))
    expected = accuracy(x, SETS[1], y, SETS[3], **options)
    assert len(values) == len(run.trajectory.times)
    assert values[-1] == {probe(*SETS).name: expected}
    assert callbacks._forward._cache_size() == 2  # once for each set, not for each sample


def test_probes_refuse_sets_that_do_not_match():
    images, labels, *test = SETS
    for arguments, message in [
        ((images / 255, labels, *test), r"images: expected uint8 \[n, h, w, c\], received float64"),
        ((images, labels[1:], *test), r"labels: expected \[28\], one per image, received int64"),
        ((images, labels, test[0], labels), r"test_labels: expected \[12\], one per image"),
        ((images, labels, *test, 29), r"k: expected a whole number in 1 \.\.\. 28, the number of"),
    ]:
        with pytest.raises(ValueError, match=message):
            callbacks.NearestNeighbours(*arguments)


def test_a_sink_receives_the_numbers_of_the_sample_and_of_the_callbacks_before_it():
    sent = {}
    sink = callbacks.Sink(lambda scalars, step: sent.setdefault(step, scalars))
    run = train(None, rank, sink, steps=5, records=3)
    trajectory = run.trajectory
    assert list(sent) == trajectory.stats["step"].tolist()
    for i, scalars in enumerate(sent.values()):
        assert all(type(value) is float for value in scalars.values())
        assert scalars["loss"] == trajectory.loss[i]
        assert scalars["eigenvalues/2"] == trajectory.eigenvalues[i, 1]
        np.testing.assert_allclose(scalars["callback/rank"], scalars["rankme"], rtol=1e-6)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_service_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{name} cannot be imported .*: pip install {name}"):
        getattr(callbacks.Sink, name)()


def test_services_receive_numbers_and_step(monkeypatch):
    sent = []

    def log(scalars, step=None):
        sent.append((scalars, step))

    wandb = SimpleNamespace(init=lambda project: SimpleNamespace(log=log))
    started = []
    mlflow = SimpleNamespace(
        active_run=lambda: None, start_run=lambda: started.append(0), log_metrics=log
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    event = callbacks.Event(7, {"loss": 1.0}, (np.zeros((1, 1)),) * 2, {}, None, small.encoder)
    callbacks.Sink.wandb(project="steps")(event)
    callbacks.Sink.mlflow()(event)
    assert sent == [({"loss": 1.0}, 7)] * 2 and started == [0]


def test_runs_pass_callbacks_on(tmp_path):
    config = runs.Config(
        n_images=16, side=16, blocks=(1,), width=4, head=(3,), steps=2, batch_size=8, probe=8,
        records=2, lr=0.01,
    )  # fmt: skip
    events = []
    run = runs.train(config, root=tmp_path, callbacks=[events.append])
    assert [event.step for event in events] == run.trajectory.stats["step"].tolist()
    (folder,) = {event.folder for event in events}
    assert isinstance(folder, Path) and folder.parent == tmp_path
    runs.train(config, root=tmp_path, callbacks=[events.append])
    assert len(events) == len(run.trajectory.times)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(events[-1].embeddings))
