import contextlib
import dataclasses
import gc
import pathlib
import shlex
import subprocess
import sys

import pytest
from absl import flags

from mulsupcon_tf.config.command_line import define_flags, ending_in_one_line, import_tensorflow_quietly
from mulsupcon_tf.config.fields import as_flag_lines
from mulsupcon_tf.config.flags import PretrainConfig
from tests.helpers.binaries import REPOSITORY, assert_one_line
from tests.helpers.forking import forked_binary
from tools.docs.api_reference import CONFIGS

# A binary of its own, whose main does what --name says.
PROGRAM = """
import dataclasses
from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag
from mulsupcon_tf.utils.errors import InputError

@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Validated):
    size: int = flag(4, "How large.", minimum=1)
    rate: float = flag(None, "How fast.")
    loud: bool = flag(False, "Whether to shout.")
    name: str | None = flag(None, "Who.", choices=("show", "names", "mistake", "file", "disk", "stop", "bug", "tensorflow"))

def main(settings, files):
    match settings.name:
        case "show": print(settings, files)
        case "names": print(*files)
        case "mistake": raise InputError("It must be so.\\n  Received: not so")
        case "file": open("/nowhere/at/all")
        case "disk": raise OSError(28, "No space left on device")
        case "stop": raise KeyboardInterrupt
        case "bug": raise ValueError("of ours")
        case "tensorflow": raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")

run_binary(Settings, main, usage="Prints what it is given.", takes_files=True)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)

    def run(*arguments, text=True, **environment):
        return subprocess.run(
            [sys.executable, str(path), *arguments],
            capture_output=True,
            text=text,
            check=False,
            timeout=30,
            env={"PYTHONPATH": str(REPOSITORY), **environment},
        )

    return run


# `python -m BINARY --help`, which fails where it has imported what takes seconds.
HELP = """
import runpy, sys
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
sys.exit(", ".join({"tensorflow", "keras", "sklearn", "h5py"} & set(sys.modules)) or 0)
"""


@pytest.mark.parametrize("binary", CONFIGS)
def test_help_explains_every_flag_without_importing_tensorflow(binary):
    line = [sys.executable, "-c", HELP, f"mulsupcon_tf.{binary}", "--help"]
    done = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    for field in dataclasses.fields(CONFIGS[binary]):
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"  --{field.name}: "))
        assert field.metadata["help"] in line
        for choice in field.metadata["choices"] or ():
            assert choice in line
    assert f"python -m mulsupcon_tf.{binary} " in done.stdout


@pytest.mark.parametrize("binary", CONFIGS)
def test_an_unknown_flag_and_a_wrong_number_get_one_line(binary):
    assert_one_line(forked_binary(binary, "--wrokdir=x"), "Unknown command line flag 'wrokdir'")
    number = {
        "pretrain": "batch_size",
        "finetune": "batch_size",
        "predict": "batch_size",
        "search": "neighbours",
        "app": "port",
    }.get(binary)
    if number:
        assert_one_line(forked_binary(binary, f"--{number}=many"), f"--{number}=many")
    if binary not in ("predict", "search"):
        assert_one_line(forked_binary(binary, "runs/digits"), "--name=value", "Received: runs/digits")


@pytest.mark.parametrize("binary", sorted(CONFIGS.keys() - {"check"}))
def test_what_is_required_is_asked_for(binary):
    assert_one_line(forked_binary(binary), "--workdir", "is required")


def test_flags_become_the_config(program, tmp_path):
    assert program("--name=show").stdout == "Settings(size=4, rate=None, loud=False, name='show') []\n"
    done = program("--name=show", "--size", "7", "--rate=0.5", "--loud", "a.png", "b.png")
    assert done.stdout == "Settings(size=7, rate=0.5, loud=True, name='show') ['a.png', 'b.png']\n"
    flagfile = tmp_path / "some.flags"
    flagfile.write_text("# a comment\n--size=9\n--name=show\n--loud=false\n")
    done = program(f"--flagfile={flagfile}", "--size=8")
    assert done.stdout == "Settings(size=8, rate=None, loud=False, name='show') []\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--name=mistake"], ["It must be so. Received: not so"]),
        (["--name=file"], ["No such file or directory: /nowhere/at/all"]),
        (["--name=disk"], ["error: No space left on device"]),
        (["--name=tensorflow"], ["TensorFlow is required", "Received: none installed"]),
        (["--name=nobody"], ["--name must be one of show, names, mistake", "Received: --name=nobody"]),
        (["--size=0"], ["--size must be at least 1. Received: --size=0"]),
        (["--size=1.5"], ["--size=1.5"]),
        (["--rate=nan"], ["finite"]),
        (["--size"], ["Missing value for flag --size"]),
        (["--siez=3"], ["Unknown command line flag 'siez'", "size"]),
        (["--flagfile=/nowhere"], ["--flagfile must name a file", "/nowhere"]),
        (["--flagfile=@csv_pretrian"], ["Received: --flagfile=@csv_pretrian (nearest: @csv_pretrain)"]),
    ],
)
def test_what_the_user_can_mend_is_one_line(program, arguments, parts):
    assert_one_line(program(*arguments), *parts)


def test_an_interrupted_run_says_how_to_continue(program):
    done = program("--name=stop")
    assert done.returncode == 130
    assert (
        done.stderr == "error: Interrupted. The same command starts again, from the last checkpoint if there is one.\n"
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", b"caf\xe9.jpg \xe6\x97\xa5.jpg\n"), ("latin-1", b"caf\\udce9.jpg \\u65e5.jpg\n")],
)
def test_names_that_are_no_text_of_the_terminal_are_printed(program, encoding, shown):
    done = program("--name=names", b"caf\xe9.jpg", "日.jpg", text=False, PYTHONUTF8="1", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stdout) == (0, shown)


def test_our_own_mistakes_keep_their_traceback(program):
    done = program("--name=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("ValueError: of ours\n")


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_standard_output_is_one_line(monkeypatch, capfd):
    with pathlib.Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as ended, ending_in_one_line():
            print("short enough to wait in a buffer")
        patch.setattr("sys.stdout", None)  # as where it is closed
        with ending_in_one_line():
            print("nowhere")
        with contextlib.suppress(OSError):
            full.close()
    assert ended.value.code == 1
    assert capfd.readouterr().err == "error: No space left on device\n"


def test_a_reader_that_has_enough_ends_the_program_without_a_word():
    program = "import time; from mulsupcon_tf.config.command_line import ending_in_one_line\n"
    program += "with ending_in_one_line(): time.sleep(0.5), print('too late')"
    line = f"set -o pipefail; {shlex.join([sys.executable, '-c', program])} | true"
    done = subprocess.run(["bash", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_flag_lines_of_a_config_give_the_config_back():
    config = PretrainConfig(workdir="runs/a b", method="rld", queue_size=77, cache=True, learning_rate=3e-7)
    values = flags.FlagValues()
    define_flags(PretrainConfig, values)
    values(["program", *as_flag_lines(config)])
    read = PretrainConfig(**{field.name: values[field.name].value for field in dataclasses.fields(PretrainConfig)})
    assert read == config


def test_what_has_become_garbage_since_tensorflow_was_imported_is_not_kept():
    import_tensorflow_quietly()
    kept = gc.get_freeze_count()
    import_tensorflow_quietly()
    assert gc.get_freeze_count() == kept
