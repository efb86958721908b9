"""The notebook of the tutorial, cell by cell: what it shows is what the commands print."""

import json
import re
import subprocess

import pytest

from tests.helpers.binaries import REPOSITORY
from tests.helpers.forking import run_forked

NOTEBOOK = REPOSITORY / "docs" / "tutorial.ipynb"
SMALL = {"FLAGS": ["--epochs=2", "--backbone=resnet8", "--image_size=32", "--batch_size=16"]}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, where commands start at once."""
    monkeypatch.chdir(tmp_path)

    started = subprocess.run

    def run(line, **settings):
        if line[1] != "-m":  # what a library asks of the system while it is imported
            return started(line, **settings)
        return run_forked(*line[2:], cwd=tmp_path)

    monkeypatch.setattr(subprocess, "run", run)
    return tmp_path


@pytest.mark.slow
def test_the_notebook_runs_from_its_first_cell_to_its_last(here, capsys):
    names: dict = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
            names |= SMALL if cell["metadata"].get("tags") == ["parameters"] else {}
    shown = capsys.readouterr().out
    assert "csv: 120 images" in shown and "metric (%)" in shown
    assert len(names["nearest"]) == 5 and names["strip"].getbbox()
    summary = json.loads((here / "runs" / "notebook" / "summary.json").read_text())
    assert names["names"] == summary["label_names"] == sorted(names["LABELS"])
    assert all(0 < probability < 1 for probability in names["probabilities"])


def test_the_notebook_holds_no_output():
    """It would be of another machine, and a picture makes every change of the file a large one."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in cells}) == len(cells) and all(re.fullmatch(r"\w+", cell["id"]) for cell in cells)
