import itertools
import re

import pytest
from absl import flags

from mulsupcon_tf.config.command_line import define_flags, flag_values
from mulsupcon_tf.config.flag_files import flag_file_names, package_file, with_flag_files
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import REPOSITORY


def write(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_the_names_are_those_of_the_folder():
    paths = {path.relative_to(REPOSITORY / "flags") for path in (REPOSITORY / "flags").rglob("*.flags")}
    assert {"csv_pretrain", "experiments/held_out"} <= set(flag_file_names())
    assert [f"{name}.flags" for name in flag_file_names()] == sorted(map(str, paths), key=lambda path: path[:-6])
    assert (
        package_file("experiments/held_out").read_bytes()
        == (REPOSITORY / "flags/experiments/held_out.flags").read_bytes()
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--seed=1", "--flagfile=FOLDER/outer.flags", "--epochs=5"],
        ["--flagfile", "FOLDER/outer.flags", "--seed=1"],
        ["-flagfile=FOLDER/inner.flags", "--cache", "rest", "-flagfile", "FOLDER/outer.flags"],
        ["--flagfile=", "--seed=3"],
        ["--seed", "4", "--", "--flagfile=FOLDER/outer.flags"],
    ],
)
def test_files_given_by_path_are_read_as_absl_reads_them(tmp_path, arguments):
    write(
        tmp_path / "inner.flags", "# a comment", "--dataset=scene  ", "", "--seed=7", "// another", "--workdir=a b=c #"
    )
    write(tmp_path / "outer.flags", "--seed=2", f"--flagfile={tmp_path}/inner.flags", "--method=rld", "  --nocache")
    arguments = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    absl_flags = flags.FlagValues()
    define_flags(PretrainConfig, absl_flags)
    assert with_flag_files(arguments) == absl_flags.read_flags_from_files(arguments)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.flags", "--seed=2")
    assert with_flag_files(["--flagfile=~/mine.flags"]) == ["--seed=2"]


def test_an_at_sign_means_a_file_of_the_package_also_inside_a_file(tmp_path):
    lines = [line for line in package_file("csv_pretrain").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    assert "--dataset=csv" in lines
    assert with_flag_files(["--seed=1", "--flagfile=@csv_pretrain", "--epochs=3"]) == ["--seed=1", *lines, "--epochs=3"]
    assert with_flag_files(["--flagfile", "@csv_pretrain"]) == lines
    mine = write(tmp_path / "mine.flags", "--flagfile=@csv_pretrain", "--epochs=7")
    outer = write(tmp_path / "outer.flags", f"--flagfile={mine}", "--seed=5")
    assert with_flag_files([f"--flagfile={outer}"]) == [*lines, "--epochs=7", "--seed=5"]
    values = flag_values(PretrainConfig, [f"--flagfile={outer}", "--batch_size=16"])
    assert (values["dataset"].value, values["epochs"].value, values["seed"].value) == ("csv", 7, 5)
    assert values["batch_size"].value == 16


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_a_flag(tmp_path):
    (tmp_path / "mine.flags").write_bytes(b"\xef\xbb\xbf--seed=2\r\n\r\n--method=rld\r\n")
    assert with_flag_files([f"--flagfile={tmp_path}/mine.flags"]) == ["--seed=2", "--method=rld"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("@csv_pretrian", "Received: --flagfile=@csv_pretrian (nearest: @csv_pretrain)"),
        ("@held_out", "(nearest: @experiments/held_out)"),
        ("@csv_pretrain.flags", "(nearest: @csv_pretrain)"),
        ("@../setup.py", "must name a flag file of the package"),
        ("@", "must name a flag file of the package"),
        ("/nowhere", "that can be read. Received: --flagfile=/nowhere (No such file or directory)"),
        ("/", "Received: --flagfile=/ (Is a directory)"),
        ("flags/csv_pretrain.flags", "(No such file or directory; the package's own: --flagfile=@csv_pretrain)"),
        ("flags/experiments/held_out.flags", "the package's own: --flagfile=@experiments/held_out)"),
    ],
)
def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    inside = write(tmp_path / "mine.flags", f"--flagfile={given}")
    for arguments in ([f"--flagfile={given}"], ["--flagfile", given], [f"--flagfile={inside}"]):
        with pytest.raises(InputError, match=re.escape(message)) as raised:
            with_flag_files(arguments)
        assert "\n" not in str(raised.value)


def test_a_circle_a_text_in_another_encoding_and_a_missing_name_are_refused(tmp_path):
    first, second = tmp_path / "first.flags", tmp_path / "second.flags"
    write(first, f"--flagfile={second}")
    write(second, f"--flagfile={first}")
    with pytest.raises(InputError, match=rf"back to itself\. Received: {first} > {second} > {first}"):
        with_flag_files([f"--flagfile={first}"])
    first.write_bytes("--workdir=é".encode("latin-1"))
    with pytest.raises(InputError, match=rf"UTF-8\. Received: --flagfile={first}"):
        with_flag_files([f"--flagfile={first}"])
    with pytest.raises(InputError, match=r"must name a file\. Received: --flagfile at the end"):
        with_flag_files(["--seed=1", "--flagfile"])


@pytest.mark.parametrize("times", [1, 2])
def test_files_that_name_each_other_without_end_are_refused_at_once(tmp_path, times):
    names = [tmp_path / f"{number}.flags" for number in range(400)]
    for path, following in itertools.pairwise(names):
        write(path, *[f"--flagfile={following}"] * times)
    write(names[-1], "--seed=1")
    with pytest.raises(InputError, match=rf"at most 100 flag files.* the last of them {names[100]}"):
        with_flag_files([f"--flagfile={names[0]}"])
    assert with_flag_files([f"--flagfile={names[-3]}"]) == ["--seed=1"] * times**2
