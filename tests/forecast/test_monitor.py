"""The monitor of any trainer: its forecasts are those of the theory, and nothing corrupts it."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from stepwise import forecast, losses, methods, plotting, spectra
from stepwise.cli import main
from stepwise.forecast import Monitor, Report, log_arrays, stream
from stepwise.forecast.rates import tabulate
from stepwise.methods import METHODS

LR = 0.004
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run():
    """Features of both views, and the heads of a linear model trained by gradient descent."""
    rng = np.random.default_rng(0)
    n, gamma, d = 300, np.array([1.6, 0.8, 0.3, 0.02]), 3
    common = rng.normal(size=(n, 4)) * np.sqrt(gamma)
    x, x2 = (common + rng.normal(size=(n, 4)) * np.sqrt(gamma / 4) for _ in range(2))
    mean = (x.mean(axis=0) + x2.mean(axis=0)) / 2
    moment = (x - mean).T @ (x2 - mean) / n
    moment = (moment + moment.T) / 2
    W, heads = 1e-3 * rng.normal(size=(d, 4)), []
    for _ in range(900):
        heads.append(W)
        W = W - LR * 4 * (W @ moment @ W.T - np.eye(d)) @ W @ moment
    return x, x2, np.array(heads)


def sample(run, step):
    x, x2, heads = run
    z1, z2 = x @ heads[step].T, x2 @ heads[step].T
    return z1, z2, float(losses.barlow_twins_unnormalised(z1, z2))


def layers(run, step):
    return {"features1": run[0], "features2": run[1], "head": run[2][step]}


def crossing(run, mode):
    """The step at which an eigenvalue of C crosses 1/2."""
    curves = [spectra.eigenvalues(*sample(run, i)[:2], center=True) for i in range(900)]
    return spectra.step_times(np.arange(900.0), np.array(curves))[mode]


def followed(run, steps, **options):
    """A monitor with samples at these steps, and its reports."""
    monitor = Monitor(**options)
    reports = []
    for step in steps:
        z1, z2, loss = sample(run, step)
        reports.append(monitor.add(step, z1, z2, loss=loss))
    return monitor, reports


def test_the_forecast_is_that_of_next_step_with_the_same_arrays(run):
    monitor, _ = followed(run, [20, 40], lr=LR)
    z1, z2, loss = sample(run, 60)
    report = monitor.add(60, z1, z2, loss=loss, **layers(run, 60))
    curves = [spectra.eigenvalues(*sample(run, i)[:2], center=True)[0] for i in (20, 40, 60)]
    direct = forecast.next_step(
        *layers(run, 60).values(), step=60, lr=LR, history=([20, 40, 60], np.array(curves))
    )
    ours = report.forecast
    assert (ours.learned, ours.step, ours.low, ours.high) == (
        direct.learned,
        direct.step,
        direct.low,
        direct.high,
    )
    np.testing.assert_array_equal(ours.weights, direct.weights)
    assert ours.extrapolated == pytest.approx(direct.extrapolated, rel=1e-4)
    assert ours.reason == "" and report.problems == ()


def test_the_first_crossing_of_a_linear_model_is_forecast_and_then_seen(run, x64):
    actual = crossing(run, 0)
    step = int(actual / 2)
    monitor, _ = followed(run, [step - 20], lr=LR)
    z1, z2, loss = sample(run, step)
    report = monitor.add(step, z1, z2, loss=loss, **layers(run, step))
    assert report.learned == 0 and report.forecast.low < actual < report.forecast.high
    assert report.forecast.step == pytest.approx(actual, rel=0.06)
    # by theory the eigenvalue grows exponentially, so the line through ln λ is nearly as good
    line = followed(run, [step - 40, step - 20, step])[1][-1].forecast
    assert line.step == pytest.approx(actual, rel=0.1) and math.isnan(line.low)
    assert line.reason == "extrapolated, without features and head"
    # samples on both sides of the crossing interpolate it in logit λ
    last = followed(run, [step, int(actual) - 10, int(actual) + 12])[1][-1]
    assert last.learned == 1 and last.crossings[0] == pytest.approx(actual, abs=0.5)
    assert np.isinf(last.crossings[1:]).all()


def test_eigenvalues_and_measures_are_those_of_spectra(run, x64):
    z1, z2, loss = sample(run, 300)
    report = Monitor().add(300, z1, z2, loss=loss)
    expected = spectra.eigenvalues(z1, z2, center=True)
    np.testing.assert_allclose(report.eigenvalues, expected, rtol=1e-12)
    assert report.learned == int(np.sum(np.asarray(expected) >= 0.5))
    assert report.measures == spectra.monitors(z1, z2) and report.dead == 0


def test_a_plateau_and_its_end_are_diagnosed(run):
    plateau = int(0.7 * crossing(run, 0) + 0.3 * crossing(run, 1))
    _, (first, second) = followed(run, [1, plateau])
    assert "no mode is learned yet, or the embedding has collapsed" in first.diagnosis
    assert second.learned == 1 and "1 of 3 modes are learned" in second.diagnosis


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_a_sample_that_is_not_finite_is_missing_and_the_next_ones_are_not_affected(run, bad):
    steps = [20, 40, 60, 80]
    monitor = Monitor(lr=LR)
    for step in steps:
        z1, z2, loss = sample(run, step)
        if step == 60:
            z1[3, 1] = bad
            report = monitor.add(step, z1, z2, loss=float("nan"), **layers(run, step))
            assert report.missing == 1 and len(report.problems) == 2
            assert np.isnan(report.eigenvalues).all() and not report.forecast.coming
            assert "diverged" in report.diagnosis and "not finite" in str(report)
        else:
            report = monitor.add(step, z1, z2, loss=loss, **layers(run, step))
    clean = followed(run, [20, 40])[0]
    clean.lr = LR
    z1, z2, loss = sample(run, 80)
    expected = clean.add(80, z1, z2, loss=loss, **layers(run, 80))
    assert report.missing == 1 and report.problems == ()
    assert report.summary() == expected.summary() | {"missing": 1}


def test_a_crossing_beside_a_missing_sample_is_interpolated_between_its_neighbours(run, x64):
    at = int(crossing(run, 0))
    expected = followed(run, [at - 8, at + 8])[1][-1]
    monitor, _ = followed(run, [at - 8])
    monitor.add(at, np.full((5, 3), np.nan), np.zeros((5, 3)))
    z1, z2, _ = sample(run, at + 8)
    np.testing.assert_array_equal(monitor.add(at + 8, z1, z2).crossings, expected.crossings)


def test_features_that_are_not_finite_leave_the_extrapolation(run):
    monitor, _ = followed(run, [20, 40], lr=LR)
    parts = layers(run, 60)
    parts["head"] = parts["head"] * np.nan
    report = monitor.add(60, *sample(run, 60)[:2], **parts, sensitivity=float("nan"))
    assert report.missing == 0 and len(report.problems) == 2
    assert "head" in report.forecast.reason and report.forecast.coming


def test_dead_dimensions_and_changing_batches_are_survived(run):
    monitor = Monitor(lr=LR)
    for step, n in ((30, 300), (60, 8), (90, 64), (120, 1), (150, 200)):
        z1, z2, loss = sample(run, step)
        dead = np.tile([0.0, 7.0], (n, 1))
        z1, z2 = (np.concatenate([z[:n], dead], axis=1) for z in (z1, z2))
        parts = layers(run, step) if n > 1 else {}
        if parts:
            parts["head"] = np.pad(parts["head"], ((0, 2), (0, 0)))
        report = monitor.add(step, z1, z2, loss=loss, **parts)
        assert report.n == n and report.dead == (2 if n > 1 else report.dead)
    assert report.forecast.coming and "2 of 5 dimensions dead" in str(report)
    assert report.missing == 0


def test_all_embeddings_zero_or_equal_are_survived():
    monitor = Monitor()
    for step, z in enumerate((np.zeros((6, 3)), np.ones((6, 3)), np.zeros((6, 3)))):
        report = monitor.add(step, z, z, loss=3.0)
        assert report.dead == 3 and not report.forecast.coming
        assert "collapsed" in report.diagnosis and str(report)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 5}, "step: expected a step after 5, received 5"),
        ({"step": -1}, "step: expected a whole number from 0, received -1"),
        ({"z1": np.zeros((4, 2)), "z2": np.zeros((4, 2))}, "z1: expected 3 columns as in the samp"),
        ({"z2": np.zeros((5, 3))}, r"z2: expected shape \[4, 3\] as z1"),
        ({"z1": np.zeros((2, 4, 3))}, "z1: expected an array of rank 2"),
        ({"z1": np.full((4, 3), "a")}, "z1: expected real numbers"),
        ({"z1": np.zeros((0, 3)), "z2": np.zeros((0, 3))}, "z1: expected at least one pair"),
        ({"head": np.zeros((3, 4))}, "features1: expected features1, features2 and head, or none"),
        ({"loss": np.zeros(3)}, "loss: expected one real number"),
    ],
)
def test_bad_samples_are_refused_in_one_line_and_change_nothing(change, message, tmp_path):
    z1, z2 = RNG.normal(size=(2, 4, 3))
    monitor = Monitor(path=tmp_path / "log.jsonl")
    monitor.add(5, z1, z2)
    before = (tmp_path / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match=message) as error:
        monitor.add(**({"step": 6, "z1": z1, "z2": z2} | change))
    assert "\n" not in str(error.value)
    assert (tmp_path / "log.jsonl").read_bytes() == before
    assert monitor.add(6, z1, z2).step == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nope"}, "method: expected one of"),
        ({"lr": -1.0}, "lr: expected a positive number, or a function of the step"),
        ({"momentum": 1.0}, "momentum: expected a number in 0 ≤ x < 1"),
        ({"batch_size": 1}, "batch_size: expected a whole number from 2"),
        ({"every": 0}, "every: expected a positive whole number"),
        ({"level": 0.0}, "level: expected a positive number"),
    ],
)
def test_bad_settings_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Monitor(**options)


def test_lists_integers_and_half_precision_are_accepted():
    z = RNG.integers(0, 5, size=(6, 2))
    expected = Monitor().add(1, z.astype(float), z).eigenvalues
    for same in (z, z.tolist(), z.astype(np.float16), z.astype(np.float32)):
        np.testing.assert_allclose(Monitor().add(1, same, same).eigenvalues, expected)


def test_steps_in_between_return_the_last_report_and_compute_nothing(run):
    monitor = Monitor(every=10)
    z1, z2, _ = sample(run, 50)
    first = monitor.add(50, z1, z2)
    assert monitor.add(59, None, None) is first
    with pytest.raises(ValueError, match="step: expected a step after 59"):
        monitor.add(59, z1, z2)
    assert monitor.add(60, z1, z2).step == 60 and monitor.samples.steps == [50, 60]


@pytest.mark.parametrize("row", METHODS.values(), ids=lambda row: row.name)
def test_every_method_can_be_followed_and_says_which_forecast_it_has(row, run):
    monitor = Monitor(row.name, lr=LR)
    for step in (20, 40):
        z1, z2, _ = sample(run, step)
        report = monitor.add(step, z1, z2, loss=row.collapse(len(z1), 3), **layers(run, step))
    theory = row.law is METHODS[methods.DEFAULT].law
    expected = "" if theory else f"extrapolated, because {row.title} has another law"
    assert report.forecast.reason == expected and report.forecast.coming
    assert report.diagnosis


def test_a_schedule_may_be_jax_or_plain_python_and_may_end():
    import jax.numpy as jnp

    step = 7
    for lr in (lambda s: 0.1 / (1 + s), lambda s: 0.1 / (1 + (s if s > 3 else 0))):
        rates = tabulate(lr, step)
        found = [float(rates(jnp.asarray(step + i))) for i in (0, 5)]
        np.testing.assert_allclose(found, [0.1 / 8, 0.1 / 13], rtol=1e-6)
    listed = [0.3, 0.2, 0.1]
    rates = tabulate(lambda s: listed[int(s)], 1)
    np.testing.assert_allclose([rates(1), rates(2), rates(50)], [0.2, 0.1, 0.1], rtol=1e-6)
    assert tabulate(lambda s: 0.0 * s, 3) is None
    assert tabulate(0.2, 3) == 0.2


def test_a_schedule_forecasts_as_its_constant_and_a_rate_of_zero_extrapolates(run):
    z1, z2, _ = sample(run, 60)
    constant = Monitor(lr=LR).add(60, z1, z2, **layers(run, 60)).forecast
    scheduled = Monitor(lr=lambda s: LR if s > 0 else 0.0).add(60, z1, z2, **layers(run, 60))
    assert scheduled.forecast.step == pytest.approx(constant.step, rel=1e-6)
    first = Monitor(lr=lambda s: LR if s > 60 else 0.0).add(60, z1, z2, **layers(run, 60))
    assert "learning rate is not positive" in first.forecast.reason


# Files


def test_a_file_continues_the_same_run_after_a_kill(run, tmp_path):
    path, steps = tmp_path / "runs" / "log.jsonl", [20, 40, 60, 80, 100]
    whole = followed(run, steps, lr=LR)[1]
    followed(run, steps[:3], lr=LR, path=path)
    with path.open("ab") as file:
        file.write(b'{"step": 80, "eigenva')
    monitor = Monitor.load(path, lr=LR)
    assert monitor.samples.steps == steps[:3] and monitor.last.summary() == whole[2].summary()
    for step, expected in zip(steps[3:], whole[3:], strict=True):
        z1, z2, loss = sample(run, step)
        assert monitor.add(step, z1, z2, loss=loss).summary() == expected.summary()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == steps
    assert lines[-1] == {"method": monitor.row.name} | whole[-1].summary()
    again = Monitor(path=path)
    np.testing.assert_array_equal(again.samples.crossings, whole[-1].crossings)


def test_a_missing_sample_is_continued_as_missing(tmp_path):
    path = tmp_path / "log.jsonl"
    monitor = Monitor(path=path)
    monitor.add(1, np.full((4, 2), np.nan), np.zeros((4, 2)), loss=np.inf)
    loaded = Monitor.load(path)
    assert loaded.missing == 1 and np.isnan(loaded.samples.eigenvalues[0]).all()
    assert str(loaded.last) == str(monitor.last) and "loss inf" in str(loaded.last)


def test_a_restart_from_a_checkpoint_drops_the_later_reports(run, tmp_path):
    path = tmp_path / "log.jsonl"
    followed(run, [20, 40, 60], path=path)
    monitor = Monitor.load(path, until=45)
    assert monitor.samples.steps == [20, 40]
    z1, z2, _ = sample(run, 50)
    monitor.add(50, z1, z2)
    assert [line["step"] for line in stream.read_lines(path)] == [20, 40, 50]


def test_damaged_and_foreign_files_of_reports_are_refused(run, tmp_path):
    path = tmp_path / "log.jsonl"
    followed(run, [20], path=path)
    with pytest.raises(ValueError, match=r"log.jsonl: expected reports of vicreg, received one of"):
        Monitor("vicreg", path=path)
    good = path.read_text()
    for text, message in (
        ("nonsense\n", "expected a JSON object on line 2"),
        ("{}\n", "expected reports of"),
        (good, "expected a step after 20 on line 2, received 20"),
        (good.replace('"n": ', '"m": '), "expected a report on line 2, received something else"),
    ):
        path.write_text(good + text)
        with pytest.raises(ValueError, match=message):
            Monitor(path=path)
    with pytest.raises(ValueError, match="path: expected an existing file of reports"):
        Monitor.load(tmp_path / "none.jsonl")


def test_a_summary_is_strict_json_and_returns_the_report(run):
    report = followed(run, [20, 40, 200])[1][-1]
    text = json.dumps(report.summary(), allow_nan=False)
    assert Report.from_summary(json.loads(text)).summary() == report.summary()
    assert str(Report.from_summary(json.loads(text))) == str(report)


def test_the_figure_has_the_eigenvalues_the_interval_and_the_loss(run):
    monitor, _ = followed(run, [0, 20, 40], lr=LR)
    z1, z2, loss = sample(run, 60)
    report = monitor.add(60, z1, z2, loss=loss, **layers(run, 60))
    fig = monitor.figure()
    above, below = fig.axes
    assert above.get_ylabel() == "loss" and below.get_xlabel() == "training step"
    assert len(above.lines[0].get_xdata()) == 3 and above.get_xlim() == below.get_xlim()
    (band,) = below.patches
    assert band.get_x() == report.forecast.low
    assert band.get_x() + band.get_width() == pytest.approx(report.forecast.high)
    plotting.plt.close(fig)
    with pytest.raises(ValueError, match="figure: expected two finite samples after step 0"):
        Monitor().figure()


# Arrays of another trainer


def test_arrays_are_read_as_they_were_logged_and_leave_no_other_file(tmp_path):
    z1, z2 = RNG.normal(size=(2, 4, 3)).astype("float32")
    path = log_arrays(tmp_path / "run", 12, z1=z1, z2=z2, loss=np.float32(2.5), head=None)
    assert [each.name for each in path.parent.iterdir()] == ["step_12.npz"]
    step, arrays = stream.read_arrays(path)
    assert step == 12 and arrays["loss"] == 2.5 and set(arrays) == {"z1", "z2", "loss"}
    np.testing.assert_array_equal(arrays["z1"], z1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z1": np.ones((2, 2))}, "arrays: expected z1 and z2, received no z2"),
        ({"z1": 1, "z2": 1, "z3": 1}, "arrays: expected only z1, .*, received z3 too"),
        ({"z1": np.array([{}]), "z2": 1}, "z1: expected real numbers"),
    ],
)
def test_other_arrays_are_refused(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        log_arrays(tmp_path, 1, **arrays)
    assert list(tmp_path.iterdir()) == []


def written(run, folder, steps):
    for step in steps:
        z1, z2, loss = sample(run, step)
        log_arrays(folder, step, z1=z1, z2=z2, loss=loss, **layers(run, step))


def test_watch_once_reports_on_the_files_of_a_folder_and_skips_damaged_ones(run, tmp_path, capsys):
    folder, out = tmp_path / "run", tmp_path / "log.jsonl"
    written(run, folder, [100, 20, 60])
    whole = (folder / "step_60.npz").read_bytes()
    (folder / "step_70.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "step_80.npz").write_bytes(b"")
    np.savez(folder / "step_90.npz", z1=np.array([{}]), z2=np.ones((2, 2)))  # pickled
    (folder / "notes.txt").write_text("not a step")
    flags = ["--lr", str(LR), "--once", "--out", str(out)]
    assert main(["watch", str(folder), *flags]) == 0
    printed = capsys.readouterr()
    assert [line.split(",")[0] for line in printed.out.splitlines() if line[0] != " "] == [
        "step 20",
        "step 60",
        "step 100",
    ]
    skipped = printed.err.splitlines()
    assert len(skipped) == 3 and all(line.startswith("skipped ") for line in skipped)
    assert all(f"step_{step}.npz" in line for step, line in zip((70, 80, 90), skipped, strict=True))
    lines = list(stream.read_lines(out))
    assert [line["step"] for line in lines] == [20, 60, 100]
    assert lines[1]["forecast"]["reason"] == ""
    # the same command continues with new files alone
    written(run, folder, [120])
    assert main(["watch", str(folder), *flags]) == 0
    assert capsys.readouterr().out.startswith("step 120,")
    assert [line["step"] for line in stream.read_lines(out)] == [20, 60, 100, 120]


def test_watch_takes_one_file_and_refuses_none(run, tmp_path, capsys):
    written(run, tmp_path, [20])
    assert main(["watch", str(tmp_path / "step_20.npz"), "--once"]) == 0
    assert capsys.readouterr().out.startswith("step 20,")
    assert main(["watch", str(tmp_path / "nowhere"), "--once"]) == 2
    assert "FILE: expected an existing folder of files step_N.npz" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["watch", str(tmp_path / "empty"), "--once"]) == 2
    assert "no file step_N.npz could be read" in capsys.readouterr().err


def test_watch_follows_a_growing_folder_until_it_is_interrupted(run, tmp_path):
    written(run, tmp_path / "run", [20])
    command = [sys.executable, "-m", "stepwise.cli", "watch", str(tmp_path / "run")]
    command += ["--out", str(tmp_path / "log.jsonl")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        log = tmp_path / "log.jsonl"
        wait(lambda: log.exists() and len(log.read_text().splitlines()) == 1)
        written(run, tmp_path / "run", [40, 60])
        wait(lambda: len(log.read_text().splitlines()) == 3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and err == ""
    assert out.splitlines()[-1] == "3 reports"


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_wrong_call_of_load_loses_no_report(run, tmp_path):
    path = tmp_path / "monitor.jsonl"
    monitor = Monitor(lr=LR, path=path)
    for step in (20, 40, 60):
        z1, z2, _ = sample(run, step)
        monitor.add(step, z1, z2)
    whole = path.read_text()
    with pytest.raises(ValueError, match="expected reports of simclr"):
        Monitor.load(path, method="simclr", until=30)
    with pytest.raises(ValueError, match="until: expected a whole number from 0"):
        Monitor.load(path, until=-1)
    assert path.read_text() == whole
    assert Monitor.load(path, until=40).last.step == 40


def test_a_head_of_other_dimensions_than_the_embedding_is_refused(run):
    z1, z2, _ = sample(run, 20)
    parts = layers(run, 20)
    with pytest.raises(ValueError, match="head: expected 3 rows, one for each column of z1"):
        Monitor(lr=LR).add(20, z1, z2, **parts | {"head": parts["head"][:2]})
