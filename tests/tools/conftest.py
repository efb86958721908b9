import dataclasses
import pathlib
import sys

import pytest

from tests.tools.scripts import TOOLS, run_script

sys.path.insert(0, str(TOOLS))  # the scripts there import each other by their plain names


@dataclasses.dataclass
class FinishedDemo:
    folder: pathlib.Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def finished_demo(tmp_path_factory) -> FinishedDemo:
    """The real demo on the real data, two steps a phase."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    done = run_script("demo.py", f"--workdir={folder}", "--max_steps=2")
    assert done.returncode == 0, done.stderr
    return FinishedDemo(folder, done.stdout, done.stderr)
