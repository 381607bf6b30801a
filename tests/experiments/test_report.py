"""Parts of the page: what it says of a figure, the directions of its clouds, its data; and it needs
nothing else.
"""

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
def made(tmp_path_factory):
    """fig2 alone: the quickest figure."""
    out = tmp_path_factory.mktemp("results")
    assert run_one.main(["fig2", "--preset", "smoke", "--out", str(out)]) == 0
    return out


def test_every_figure_says_its_claim_its_source_and_its_command():
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
def test_a_claim_is_not_said_to_hold_where_its_premise_does_not(checks, verdict):
    assert entries.Entry("fig", "T", {}, summary={"checks": checks}).verdict == verdict


def test_a_figure_that_was_stopped_half_way_does_not_hold():
    assert (
        entries.Entry("fig", "T", {}, summary={"checks": [check()], "whole": False}).verdict
        == "unfinished"
    )


def test_a_training_whose_images_are_others_or_gone_is_said_to_be_missing(linear, tmp_path):
    config = dataclasses.replace(fig1_steps.Config.smoke(), network="none")
    with jax.enable_x64(True):
        digest = fig1_steps.digest(config)
    for name, settings, images, said in (
        ("same", config, digest, []),
        (
            "others",
            config,
            "0",
            ["the linear model's training: the images of photos are others than those"],
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
        made, _, missing = replay.replays([entry])
        assert len(made) == (not said) and len(missing) == len(said)
        assert all(found.startswith(each) for found, each in zip(missing, said, strict=True))


def test_arrays_of_another_version_are_shown_as_they_were_drawn(made, tmp_path):
    folder = tmp_path / "fig2" / "smoke"
    shutil.copytree(made / "fig2" / "smoke", folder)
    _, header = _npz.read(folder / "arrays.npz", "figure fig2", ())
    _npz.write(folder / "arrays.npz", "figure fig2", {"other": np.zeros(1)}, header)
    (entry,) = (each for each in entries.entries(tmp_path, "smoke") if each.folder)
    assert entry.picture == entries.embedded("image/png", (folder / "figure.png").read_bytes())
    (folder / "figure.png").unlink()
    assert page.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "Its drawing is not there" in text and not Addresses(text).pictures


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("summary.json", "{", "not to be read: Expecting property name"),
        (
            "summary.json",
            '{"checks": []}',
            "expected a figure's, received one without seconds, device, cores",
        ),
        (
            "config.json",
            "[]",
            "expected summary.json and config.json of a figure, received something else",
        ),
        ("config.json", None, "not to be read: [Errno 2] No such file or directory"),
    ],
)
def test_one_figure_that_cannot_be_read_does_not_cost_the_others(
    made, tmp_path, capsys, file, content, said
):
    shutil.copytree(made / "fig2" / "smoke", tmp_path / "fig2" / "smoke")
    shutil.copytree(made / "fig2" / "smoke", tmp_path / "fig5" / "smoke")
    path = tmp_path / "fig5" / "smoke" / file
    path.unlink() if content is None else path.write_text(content)
    assert page.main(["--results", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    assert said in capsys.readouterr().out
    text = html.unescape((tmp_path / "page.html").read_text())
    assert said in text and 'id="fig2"' in text and 'id="fig5"' not in text


def test_a_missing_key_is_said_in_words():
    assert entries.explained(KeyError("theory_loss")) == "no 'theory_loss' in it"
    assert entries.explained(ValueError("a: expected b")) == "a: expected b"


def test_the_page_of_what_there_is_is_whole_and_says_what_is_not_there(made, capsys):
    out = made / "page.html"
    assert page.main(["--results", str(made), "--out", str(out)]) == 0
    assert "not made yet: fig1, fig3" in capsys.readouterr().out
    text = out.read_text()
    assert "make fig3" in text
    found = Addresses(text)
    assert found.pictures and all(address.startswith("data:") for address in found.pictures)
    assert all(address.startswith("#") for address in found.links)
    assert "http" not in text.split("<body>")[0]


def test_no_results_is_one_line_and_no_page(tmp_path, capsys):
    assert page.main(["--results", str(tmp_path), "--out", str(tmp_path / "x.html")]) == 2
    assert "make figures" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_directions_are_found_in_the_order_in_which_they_were_learned():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    modes = np.linalg.qr(rng.normal(size=(200, 4)))[0]
    steps, when = np.arange(0, 100, 5), np.array([20.0, 40.0, 60.0, np.inf])
    sizes = 1 / (
        1 + np.exp(-(steps[:, None] - when))
    )  # equal in the end, so that the end alone cannot tell
    z = np.einsum("sk,nk,dk->snd", sizes, modes, basis)
    found = replay.learned_directions(z, steps, when)
    np.testing.assert_allclose(np.abs(found.T @ basis)[:3, :3], np.eye(3), atol=1e-3)
    np.testing.assert_allclose(found.T @ found, np.eye(4), atol=1e-12)


def test_a_networks_cloud_opens_with_its_modes(subject):
    made = replay.network(subject, DEFAULT)
    size = made.cloud.std(axis=1)
    assert made.cloud.shape == (len(subject.steps), 32, 3)
    assert (size[0] < 0.05 * size[-1]).all()
    first = np.searchsorted(made.moments, made.step_times[0])
    assert made.moments[first] < made.step_times[1] < made.step_times[2]
    assert (
        size[first, 0] > 2 * size[first, 1] > 2 * 10 * size[first, 2]
    )  # a line, that the second mode is to widen
    # what the cloud says at the end is what the curves say: unnormalised Barlow Twins takes each
    # mode's C to 1
    assert 0.3 < size[-1, 0] < 3


def test_its_data_is_json_that_gives_the_cloud_back(subject):
    made = replay.network(subject, DEFAULT)
    data = json.loads(json.dumps(made.data(), allow_nan=False))
    back = (
        np.frombuffer(base64.b64decode(data["cloud"]), "<i2").reshape(made.cloud.shape)
        / replay.SCALE
    )
    np.testing.assert_allclose(back, made.cloud / np.abs(made.cloud).max(), atol=1e-4)
    assert len(data["steps"]) == len(data["loss"]) == len(data["eigenvalues"][0])


def test_the_gallery_has_the_images_at_both_ends_of_every_learned_mode(subject):
    found = gallery(subject, DEFAULT)
    assert len(found.modes) == sum(np.isfinite(subject.numbers["step_times"]))
    assert [mode.step for mode in found.modes] == sorted(mode.step for mode in found.modes)
    for mode in found.modes:
        assert mode.low != mode.high
        assert mode.low.startswith("data:image/png;base64,")
        assert {"brightness", "contrast", "saturation", "hue"} <= mode.correlations.keys()
        assert mode.strongest in mode.correlations


class Addresses(html.parser.HTMLParser):
    """What a page's images and links point at."""

    def __init__(self, text):
        super().__init__()
        self.pictures, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "img":
            self.pictures.append(found["src"])
            assert len(found["alt"]) > 20
        if tag == "a":
            self.links.append(found["href"])
        assert not (tag in ("script", "link") and found.get("src"))
