"""The umbrella of the commands: `python -m mulsupcon_tf COMMAND`."""

import importlib
import re
import subprocess
import sys

import pytest

from mulsupcon_tf.__main__ import COMMANDS, flag_files_by_command, overview
from mulsupcon_tf.config.flag_files import flag_file_names
from mulsupcon_tf.datasets.registry import dataset_names
from tests.helpers.scripts import REPOSITORY, assert_one_line, run_script


def section_of(text, title):
    """The words of a section of the overview, by the first word of each entry."""
    lines = text.partition(title)[2].partition(":\n")[2].partition("\n\n")[0]
    entries = re.split(r"^  (?=\S)", re.sub(r"\n {3,}", " ", lines), flags=re.MULTILINE)[1:]
    return {entry.split()[0]: entry.split(maxsplit=1)[1].strip() for entry in entries}


def test_every_binary_is_a_command():
    assert set(COMMANDS) == {path.stem for path in (REPOSITORY / "mulsupcon_tf").glob("*.py")} - {
        "__init__",
        "__main__",
    }


def test_the_overview_has_every_command_dataset_and_flag_file():
    text = overview()
    commands = section_of(text, "Commands")
    assert list(commands) == list(COMMANDS)
    for name, line in commands.items():
        assert line == importlib.import_module(f"mulsupcon_tf.{name}").__doc__.splitlines()[0]
    datasets = section_of(text, "Datasets")
    assert sorted(", ".join(datasets.values()).split(", ")) == sorted(dataset_names())
    assert "csv" in datasets["images"].split(", ") and "scene" in datasets["vectors"].split(", ")
    files = {command: names.split(", ") for command, names in section_of(text, "Flag files").items()}
    assert files == flag_files_by_command()
    assert max(map(len, text.splitlines())) <= 100


def test_a_flag_file_stands_under_the_command_that_takes_it():
    files = flag_files_by_command()
    assert {command for command, names in files.items() for name in names if name.startswith("experiments/")} == {
        "experiment"
    }
    for phase in ("pretrain", "finetune"):
        assert files[phase] == [name for name in flag_file_names() if name.endswith(f"_{phase}")]
    # Of a maintainers' program, which is not in the package.
    assert set(flag_file_names()) - set().union(*files.values()) == {"experiments/recovery"}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_overview_comes_without_tensorflow(arguments):
    code = (
        f"import sys; sys.argv = ['mulsupcon', *{arguments}]; from mulsupcon_tf.__main__ import run; run(); "
        "sys.exit(bool({'tensorflow', 'keras', 'sklearn', 'h5py', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{overview()}\n", "")


def test_a_command_gets_its_own_arguments():
    one, other = run_script("mulsupcon_tf", "pretrain", "--help"), run_script("mulsupcon_tf.pretrain", "-h")
    assert (one.returncode, one.stderr) == (other.returncode, other.stderr) == (0, "")
    assert "\nFlags:\n  --dataset: " in one.stdout
    assert one.stdout == other.stdout
    assert_one_line(run_script("mulsupcon_tf", "pretrain", "--seed=-1"), "--seed must be at least 0")
    assert_one_line(run_script("mulsupcon_tf", "report", "/nowhere", "--output=x"), "/nowhere")


def test_an_unknown_command_gets_one_line_with_the_nearest():
    done = run_script("mulsupcon_tf", "pretain", "--help")
    assert_one_line(done, "A command must be one of demo, check, pretrain, ")
    assert done.stderr.endswith("Received: pretain (nearest: pretrain)\n")
