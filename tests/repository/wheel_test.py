"""The source distribution and the wheel: built, installed into a fresh environment, and used outside the checkout."""

import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import venv
import zipfile

import pytest

import mulsupcon_tf
from mulsupcon_tf.__main__ import COMMANDS, overview

REPOSITORY = pathlib.Path(__file__).parents[2]
UNDER_BOTH_NAMES = ("pretrain", "report")  # with TensorFlow and without; both names are made in the same way for all


def run(*command, cwd):
    """In a folder that is no checkout, and without what points Python to one."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def output_of(*command, cwd):
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Folder of the source distribution and of the wheel that is built from it, from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("distributions")
    ignored = [line.rstrip("/") for line in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").split()]
    shutil.copytree(REPOSITORY, folder / "copy", ignore=shutil.ignore_patterns(".git", *ignored))
    output_of(sys.executable, "-m", "build", "--no-isolation", f"--outdir={folder / 'dist'}", "copy", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(distributions):
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory):
    """`bin` of an environment that has the wheel, and for its requirements looks where this process finds them."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    output_of(
        sys.executable, "-m", "pip", f"--python={python}", "install", "--no-deps", "--no-index", wheel, cwd=folder
    )
    (packages,) = folder.glob("lib/python*/site-packages")
    elsewhere = [path for path in sys.path if path.endswith("-packages")]
    (packages / "requirements.pth").write_text("".join(f"{path}\n" for path in elsewhere), encoding="utf-8")
    where = output_of(python, "-c", "import mulsupcon_tf; print(mulsupcon_tf.__file__)", cwd=folder)
    assert where == f"{packages / 'mulsupcon_tf' / '__init__.py'}\n"
    return folder / "bin"


def test_both_distributions_would_be_taken_by_a_package_index(distributions):
    files = sorted(distributions.iterdir())
    name = f"mulsupcon_tf-{mulsupcon_tf.__version__}"
    assert [path.name for path in files] == [f"{name}-py3-none-any.whl", f"{name}.tar.gz"]
    said = output_of(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files, cwd=distributions)
    assert said.count("PASSED") == 2


def test_the_wheel_has_the_package_its_flag_files_and_nothing_else(wheel):
    suffixes = (".py", ".flags", ".typed")
    here = {
        path.relative_to(REPOSITORY).as_posix(): path.read_bytes()
        for path in (REPOSITORY / "mulsupcon_tf").rglob("*")
        if path.suffix in suffixes
    }
    here |= {
        f"mulsupcon_tf/{path.relative_to(REPOSITORY).as_posix()}": path.read_bytes()
        for path in (REPOSITORY / "flags").rglob("*.flags")
    }
    with zipfile.ZipFile(wheel) as archive:
        there = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert "mulsupcon_tf/py.typed" in there and "mulsupcon_tf/flags/experiments/held_out.flags" in there
    assert there == here


def test_the_umbrella_lists_what_there_is_outside_a_checkout(binaries, tmp_path):
    assert output_of(binaries / "mulsupcon", cwd=tmp_path) == f"{overview()}\n"
    assert output_of(binaries / "python", "-m", "mulsupcon_tf", "--help", cwd=tmp_path) == f"{overview()}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(binaries, tmp_path, command):
    said = output_of(binaries / "mulsupcon", command, "--help", cwd=tmp_path)
    assert f"python -m mulsupcon_tf.{command} " in said and "\nFlags:\n" in said
    if command in UNDER_BOTH_NAMES:
        assert output_of(binaries / f"mulsupcon-{command}", "--help", cwd=tmp_path) == said


def test_each_command_has_a_name_of_its_own_too(wheel, binaries):
    entry_points, scripts = configparser.ConfigParser(), {"mulsupcon": "mulsupcon_tf.__main__:run"}
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/entry_points.txt"))
        entry_points.read_string(archive.read(name).decode())
    scripts |= {f"mulsupcon-{command}": f"mulsupcon_tf.{command}:run" for command in COMMANDS}
    assert {section: dict(entry_points[section]) for section in entry_points.sections()} == {"console_scripts": scripts}
    assert all(os.access(binaries / script, os.X_OK) for script in scripts)


@pytest.mark.slow
def test_a_flag_file_of_the_package_trains_outside_a_checkout(binaries, tmp_path):
    (tmp_path / "mine.flags").write_text("--flagfile=@digits_pretrain\n--batch_size=32\n", encoding="utf-8")
    command = (binaries / "mulsupcon", "pretrain", "--flagfile=mine.flags", "--max_steps=1", "--workdir=one")
    assert "results in one" in output_of(*command, cwd=tmp_path)
    flags = (tmp_path / "one" / "flags.txt").read_text(encoding="utf-8").split()
    assert {"--dataset=digits", "--queue_size=2048", "--batch_size=32", "--max_steps=1"} <= set(flags)


def test_an_unknown_flag_file_gets_one_line_outside_a_checkout(binaries, tmp_path):
    done = run(binaries / "mulsupcon-finetune", "--flagfile=@digits_finetun", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("(nearest: @digits_finetune)\n")
