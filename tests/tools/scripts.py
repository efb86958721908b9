"""Runs the scripts in tools/ as a user does."""

import pathlib
import subprocess
import sys

TOOLS = pathlib.Path(__file__).parents[2] / "tools"


def run_script(name: str, *arguments: object, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python tools/NAME ARGUMENTS...` in a process of its own."""
    command = [sys.executable, str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def assert_one_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    """A user's mistake: exit status 1, one line on standard error, nothing else."""
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
