import os
import subprocess
import sys

import pytest

from mulsupcon_tf.utils.atomic_file import (
    regular_file,
    remove_partial,
    replacing,
    replacing_folder,
    require_writable,
    write_text,
)
from tests.helpers.binaries import REPOSITORY

# Fills half a folder, says so, and goes on when it is told to.
ANOTHER = """
import pathlib, sys
from mulsupcon_tf.utils.atomic_file import replacing_folder
with replacing_folder(pathlib.Path(sys.argv[1]), replace=False) as partial:
    (partial / "one").write_text("of another process")
    print("half", flush=True)
    sys.stdin.readline()
"""


def test_text_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "summary.json"
    write_text(path, "old")
    write_text(path, "τ = 0.1\n")
    assert path.read_text(encoding="utf-8") == "τ = 0.1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_end_of_the_block_the_old_file_stays(tmp_path):
    path = tmp_path / "encoder.weights.h5"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename across file systems would not be atomic
        assert temporary.name.endswith(".weights.h5")
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as temporary:
        temporary.write_text("ha")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_could_not_be_written_is_known_before_and_trying_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "new.json", "new/folders/new.json"):
        require_writable(tmp_path / name)
    for name, error in (
        ("file/new.json", NotADirectoryError),
        ("file/new/new.json", NotADirectoryError),
        ("folder", IsADirectoryError),
        ("pipe", OSError),
    ):
        with pytest.raises(error) as raised:
            require_writable(tmp_path / name)
        assert raised.value.filename == str(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "text"


def another(path):
    """A process that is half way through writing the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", ANOTHER, str(path)],
        cwd=REPOSITORY,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "half\n"
    return process


def test_what_a_live_process_is_writing_stays_and_what_a_killed_one_has_left_goes(tmp_path):
    live, killed = another(tmp_path / "live"), another(tmp_path / "killed")
    killed.kill()
    killed.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial(tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.name == f".partial-{live.pid}-live" and (left / "one").exists()
    assert live.communicate("go on\n")[1] == ""
    assert (tmp_path / "live" / "one").read_text() == "of another process"
    assert [path.name for path in tmp_path.iterdir()] == ["live"]


def test_a_folder_that_came_meanwhile_is_not_replaced_unless_it_may_be(tmp_path):
    slow = another(tmp_path / "model")
    with replacing_folder(tmp_path / "model", replace=False) as partial:
        (partial / "one").write_text("ours")
    assert "FileExistsError" in slow.communicate("go on\n")[1]
    assert (tmp_path / "model" / "one").read_text() == "ours"
    with replacing_folder(tmp_path / "model") as partial:
        (partial / "two").write_text("newer")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["two"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_read_or_made_is_said_by_its_own_name(tmp_path):
    for path, fault in ((tmp_path, IsADirectoryError), (tmp_path / "gone", FileNotFoundError)):
        with pytest.raises(fault) as raised:
            regular_file(path)
        assert str(raised.value.filename) == str(path)
    (tmp_path / "file").touch()
    assert regular_file(tmp_path / "file") == tmp_path / "file"
    inside = tmp_path / "file" / "model"
    with pytest.raises(NotADirectoryError) as raised, replacing_folder(inside):
        pytest.fail("there is no folder to fill")
    assert raised.value.filename == str(inside)
