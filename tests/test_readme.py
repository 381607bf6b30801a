"""What the README shows runs as it stands there."""

import re
import subprocess
from pathlib import Path

from tests.conftest import optimised

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_shows_code():
    assert BLOCKS


@optimised()
def test_the_code_of_the_readme_runs_in_the_order_in_which_it_stands(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it keeps its runs there
    names = {}
    for i, code in enumerate(BLOCKS):
        exec(compile(code, "README.md", "exec"), names)
        assert capsys.readouterr().out
        if i == 0:  # the ten lines predict every step
            assert names["compare"](names["theory"], names["run"]).count_within(0.05) == 4
    compare = names["compare"]
    assert compare(names["theory"], names["run"]).count_within(0.05) == 3
    network = compare(
        names["dynamics"].flow(names["p"], names["A0"], names["real"].times), names["real"]
    )
    assert network.count_within(0.15) == 3 and network.eigenvalue_rms < 0.05


def test_every_make_target_of_the_readme_exists():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    known = set(re.findall(r"^  make (\S+) ", said.stdout, flags=re.MULTILINE))
    asked = set(re.findall(r"^make ([a-z0-9-]+)", README, flags=re.MULTILINE))
    assert asked and asked <= known


def test_every_picture_of_the_readme_is_there():
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), picture
