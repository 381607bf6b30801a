"""Report page: entries of figures, directions of the clouds, and data; it needs no other file."""

import base64
import dataclasses
import html
import html.parser
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import run_one
from experiments.contract import silent
from experiments.figures import fig1_steps
from experiments.report import entries, page, replay
from experiments.report.gallery import gallery
from experiments.shared import inspected
from stepwise import _npz
from stepwise.methods import DEFAULT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("fig3")]


@pytest.fixture(scope="module")
def subject(fig3, runs_dir):
    config = dataclasses.replace(inspected.Config.smoke(), runs_dir=runs_dir)
    with jax.enable_x64(False):
        return inspected.subject(config, DEFAULT, silent)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Folder with the results of fig2, the fastest figure."""
    out = tmp_path_factory.mktemp("results")
    assert run_one.main(["fig2", "--preset", "smoke", "--out", str(out)]) == 0
    return out


def test_every_header_has_claim_paper_command_and_expected_numbers():
    for name in run_one.FIGURES:
        title, fields = entries.header(run_one.module(name).__doc__)
        assert title.endswith(".")
        assert {"Claim", "Paper", "Command", "Expected"} <= fields.keys(), name
        assert len(fields["Claim"]) > 60
        assert f"make {name}" in fields["Command"]


def check(passed=True, premise=False):
    return {
        "name": "c",
        "value": 1.0,
        "bound": 2.0,
        "relation": "<=",
        "passed": passed,
        "premise": premise,
    }


@pytest.mark.parametrize(
    ("checks", "verdict"),
    [
        ([check(), check(premise=True)], "holds"),
        ([check(False), check(premise=True)], "fails"),
        ([check(), check(False, premise=True)], "untried"),
        ([check(False), check(False, premise=True)], "fails"),
        ([], ""),
    ],
)
def test_a_claim_does_not_hold_unless_its_premises_do(checks, verdict):
    assert entries.Entry("fig", "T", {}, summary={"checks": checks}).verdict == verdict


def test_an_interrupted_figure_does_not_hold():
    assert (
        entries.Entry("fig", "T", {}, summary={"checks": [check()], "whole": False}).verdict
        == "unfinished"
    )


def test_a_replay_whose_images_changed_or_are_gone_is_reported_as_missing(linear, tmp_path):
    config = dataclasses.replace(fig1_steps.Config.smoke(), network="none")
    with jax.enable_x64(True):
        digest = fig1_steps.digest(config)
    for name, settings, images, messages in (
        ("same", config, digest, []),
        (
            "changed",
            config,
            "0",
            ["the linear model's training: data: expected the images from which fig1 was computed"],
        ),
        (
            "gone",
            dataclasses.replace(config, data=f"npz:{tmp_path}/a.npz"),
            digest,
            ["the linear model's training: "],
        ),
    ):
        folder = tmp_path / "fig1" / name
        folder.mkdir(parents=True)
        header = {"numbers": json.loads(json.dumps(linear.numbers)), "images": images}
        _npz.write(folder / "arrays.npz", "figure fig1", linear.arrays, header)
        entry = entries.Entry("fig1", "T", {}, folder=folder, config=dataclasses.asdict(settings))
        available, _, missing = replay.replays([entry])
        assert len(available) == (not messages) and len(missing) == len(messages)
        assert all(line.startswith(each) for line, each in zip(missing, messages, strict=True))


def test_arrays_of_another_version_are_shown_by_their_stored_drawing(results, tmp_path):
    folder = tmp_path / "fig2" / "smoke"
    shutil.copytree(results / "fig2" / "smoke", folder)
    _, header = _npz.read(folder / "arrays.npz", "figure fig2", ())
    _npz.write(folder / "arrays.npz", "figure fig2", {"other": np.zeros(1)}, header)
    (entry,) = (each for each in entries.entries(tmp_path, "smoke") if each.folder)
    assert entry.picture == entries.embedded("image/png", (folder / "figure.png").read_bytes())
    (folder / "figure.png").unlink()
    assert page.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "The drawing is missing" in text and not Addresses(text).pictures


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", "{", "results cannot be read: Expecting property name"),
        (
            "summary.json",
            '{"checks": []}',
            "expected the fields of a figure, received a file without seconds, device, cores",
        ),
        (
            "config.json",
            "[]",
            "expected objects in summary.json and config.json, received another value",
        ),
        ("config.json", None, "results cannot be read: [Errno 2] No such file or directory"),
    ],
)
def test_figures_are_shown_although_another_one_cannot_be_read(
    results, tmp_path, capsys, file, content, message
):
    shutil.copytree(results / "fig2" / "smoke", tmp_path / "fig2" / "smoke")
    shutil.copytree(results / "fig2" / "smoke", tmp_path / "fig5" / "smoke")
    path = tmp_path / "fig5" / "smoke" / file
    path.unlink() if content is None else path.write_text(content)
    assert page.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    assert message in capsys.readouterr().out
    text = html.unescape((tmp_path / "page.html").read_text())
    assert message in text and 'id="fig2"' in text and 'id="fig5"' not in text


def test_a_missing_key_is_explained_in_words():
    assert entries.explained(KeyError("theory_loss")) == "missing key 'theory_loss'"
    assert entries.explained(ValueError("a: expected b")) == "a: expected b"


def test_a_page_is_self_contained_and_names_figures_without_results(results, capsys):
    out = results / "page.html"
    assert page.main(["--results", str(results), "--out", str(out)]) == 0
    assert "no results yet: fig1, fig3" in capsys.readouterr().out
    text = out.read_text()
    assert "make fig3" in text
    addresses = Addresses(text)
    assert addresses.pictures
    assert all(address.startswith("data:") for address in addresses.pictures)
    assert all(address.startswith("#") for address in addresses.links)
    assert "http" not in text.split("<body>")[0]


def test_without_results_there_is_one_line_and_no_page(tmp_path, capsys):
    assert page.main(["--results", str(tmp_path), "--out", str(tmp_path / "x.html")]) == 2
    assert "make figures" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_directions_are_sorted_in_the_order_in_which_they_were_learned():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    modes = np.linalg.qr(rng.normal(size=(200, 4)))[0]
    steps, when = np.arange(0, 100, 5), np.array([20.0, 40.0, 60.0, np.inf])
    # the sizes are equal at the end, which therefore does not show the order
    sizes = 1 / (1 + np.exp(-(steps[:, None] - when)))
    z = np.einsum("sk,nk,dk->snd", sizes, modes, basis)
    directions = replay.learned_directions(z, steps, when)
    np.testing.assert_allclose(np.abs(directions.T @ basis)[:3, :3], np.eye(3), atol=1e-3)
    np.testing.assert_allclose(directions.T @ directions, np.eye(4), atol=1e-12)


def test_a_networks_cloud_gains_dimensions_with_its_modes(subject):
    network = replay.network(subject, DEFAULT)
    size = network.cloud.std(axis=1)
    assert network.cloud.shape == (len(subject.steps), 32, 3)
    assert (size[0] < 0.05 * size[-1]).all()
    first = np.searchsorted(network.moments, network.step_times[0])
    assert network.moments[first] < network.step_times[1] < network.step_times[2]
    # the cloud is a line, before the second mode widens it
    assert size[first, 0] > 2 * size[first, 1] > 2 * 10 * size[first, 2]
    # cloud and curves agree at the end: unnormalised Barlow Twins takes each mode's C to 1
    assert 0.3 < size[-1, 0] < 3


def test_the_data_of_a_replay_are_json_from_which_the_cloud_can_be_read(subject):
    network = replay.network(subject, DEFAULT)
    data = json.loads(json.dumps(network.data(), allow_nan=False))
    integers = np.frombuffer(base64.b64decode(data["cloud"]), "<i2")
    cloud = integers.reshape(network.cloud.shape) / replay.SCALE
    np.testing.assert_allclose(cloud, network.cloud / np.abs(network.cloud).max(), atol=1e-4)
    assert len(data["steps"]) == len(data["loss"]) == len(data["eigenvalues"][0])


def test_the_gallery_has_the_images_at_both_ends_of_every_learned_mode(subject):
    modes = gallery(subject, DEFAULT).modes
    assert len(modes) == sum(np.isfinite(subject.numbers["step_times"]))
    assert [mode.step for mode in modes] == sorted(mode.step for mode in modes)
    for mode in modes:
        assert mode.low != mode.high
        assert mode.low.startswith("data:image/png;base64,")
        assert {"brightness", "contrast", "saturation", "hue"} <= mode.correlations.keys()
        assert mode.strongest in mode.correlations


class Addresses(html.parser.HTMLParser):
    """Addresses of a page's images and links."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "img":
            self.pictures.append(attributes["src"])
            assert len(attributes["alt"]) > 20
        if tag == "a":
            self.links.append(attributes["href"])
        assert not (tag in ("script", "link") and attributes.get("src"))
