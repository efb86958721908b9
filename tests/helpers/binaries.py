"""The binaries as a user starts them: real processes."""

import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).parents[2]


def command(binary, **flags):
    """The command line of a binary; True stands for a bare flag."""
    given = [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags.items()]
    return [sys.executable, "-m", f"mulsupcon_tf.{binary}", *given]


def run_binary(binary, *arguments, timeout=200, **flags):
    """Runs it to its end in the checkout, so that this checkout is what is tested."""
    line = [*command(binary, **flags), *map(str, arguments)]
    return subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout, check=False)


def assert_one_line(done, *parts):
    """Exit status 1, nothing on standard output, one line on standard error that has these parts."""
    assert (done.returncode, done.stdout) == (1, ""), done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


def contents(folder):
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
