"""Runs the programs of the package and of tools/ as a user does."""

import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]


def run_script(module: str, *arguments: object, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS...` in a process of its own, which imports from this checkout whatever its folder."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def assert_one_line(done: subprocess.CompletedProcess[str], message: str) -> None:
    """A user's mistake: exit status 1, one line on standard error, nothing else."""
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
