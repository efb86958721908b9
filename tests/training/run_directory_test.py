import dataclasses
import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.errors import InputError

CONFIG = PretrainConfig(workdir="runs/a", learning_rate=4e-4, epochs=3)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_folder_is_claimed_with_its_settings(tmp_path):
    run = RunDirectory(tmp_path / "deep" / "run")
    run.check(CONFIG)
    assert not run.path.parent.exists()
    run.claim(CONFIG)
    assert "--learning_rate=0.0004" in run.flags_file.read_text().splitlines()
    assert read_flags(run.flags_file)["epochs"] == "3"
    run.check(CONFIG)
    assert not run.finished


def test_the_same_settings_may_go_on_from_another_place(tmp_path):
    run = RunDirectory(tmp_path)
    run.claim(CONFIG)
    elsewhere = {"workdir": "elsewhere", "dataset": "digits", "data_dir": "/data", "checkpoint_every": "1e"}
    run.check(PretrainConfig(**elsewhere, learning_rate=4e-4, epochs=3))


def test_other_settings_are_refused_with_each_difference_and_nothing_changes(tmp_path):
    run = RunDirectory(tmp_path)
    run.claim(CONFIG)
    before = files(tmp_path)
    other = PretrainConfig(workdir="runs/a", learning_rate=1e-3, epochs=3, max_steps=9)
    with pytest.raises(InputError) as raised:
        run.check(other)
    assert "Received: --learning_rate: 0.0004 there, 0.001 here; --max_steps: not set there, 9 here" in str(
        raised.value
    )
    assert "epochs" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert files(tmp_path) == before


def test_a_run_that_is_older_than_a_setting_goes_on_with_its_default_only(tmp_path):
    run = RunDirectory(tmp_path)
    run.claim(CONFIG)
    lines = run.flags_file.read_text().splitlines(keepends=True)
    run.flags_file.write_text("".join(line for line in lines if not line.startswith("--cache")))
    run.check(CONFIG)
    with pytest.raises(InputError, match=r"Received: --cache: false there, true here$"):
        run.check(dataclasses.replace(CONFIG, cache=True))


def test_a_folder_with_other_files_and_a_file_are_refused(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(InputError, match=r"new or empty folder, or a run to continue\. Received: .*other files"):
        RunDirectory(tmp_path).check(CONFIG)
    with pytest.raises(InputError, match=r"--workdir must be a folder\. Received: the file .*photo\.jpg"):
        RunDirectory(tmp_path / "photo.jpg").check(CONFIG)
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "run")
    with pytest.raises(InputError, match=r"Received: the link .*link, which leads nowhere"):
        RunDirectory(tmp_path / "link").check(CONFIG)


def test_the_log_has_one_line_an_epoch(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.epochs() == []
    for epoch in (1, 2, 3):
        run.log_epoch({"epoch": epoch, "loss": 0.1 * epoch})
    assert run.epochs() == [{"epoch": epoch, "loss": 0.1 * epoch} for epoch in (1, 2, 3)]
    assert len(run.metrics_file.read_text().splitlines()) == 3


def test_epochs_that_are_repeated_are_forgotten_and_so_is_a_line_cut_in_the_middle(tmp_path):
    run = RunDirectory(tmp_path)
    for epoch in (1, 2, 3):
        run.log_epoch({"epoch": epoch, "loss": 1.5})
    with run.metrics_file.open("a") as file:
        file.write('{"epoch": 4, "lo')
    run.forget_epochs_after(2)
    run.log_epoch({"epoch": 3})
    assert [json.loads(line)["epoch"] for line in run.metrics_file.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("damage", ['{"epoch": 2, "lo', "\0" * 30, '{"epoch": 2, "loss"; 1.5}', "[2]", "{}", "\udcff"])
def test_a_damaged_line_of_the_log_is_reported_and_left_out(tmp_path, damage, caplog):
    run = RunDirectory(tmp_path)
    for epoch in (1, 2, 3):
        run.log_epoch({"epoch": epoch})
    lines = run.metrics_file.read_text().splitlines()
    run.metrics_file.write_text("\n".join([lines[0], damage, lines[2]]) + "\n", errors="surrogateescape")
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        run.forget_epochs_after(3)
    assert run.epochs() == [{"epoch": 1}, {"epoch": 3}]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "metrics.jsonl, line 2 is damaged" in caplog.text


@pytest.mark.parametrize(
    ("text", "what"),
    [("", "which is empty"), ("--epochs=3\nrubbish\n", "'rubbish'"), ("--epochs\n", "'--epochs'"), ("\udcff\n", "")],
)
def test_damaged_settings_are_one_line(tmp_path, text, what):
    (tmp_path / "flags.txt").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=rf"flags\.txt must hold the settings of a run.*Received: .*{what}") as raised:
        RunDirectory(tmp_path).check(CONFIG)
    assert "\n" not in str(raised.value)


def test_a_run_with_a_summary_is_finished(tmp_path):
    run = RunDirectory(tmp_path)
    with pytest.raises(InputError, match=r"finished run directory holds summary\.json\. Received: "):
        run.read_summary()
    run.write_summary({"phase": "finetune", "val": {"mAP": 0.5}})
    assert run.finished
    assert run.read_summary() == {"phase": "finetune", "val": {"mAP": 0.5}}


@pytest.mark.parametrize("content", ['{"phase": "finetune"}', '{"phase": "finetune", "val": {}}'])
def test_an_entry_that_a_summary_lacks_is_named_also_an_inner_one(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError, match=r"^summary\.json must be whole, with '(val|mAP)'\. Received: .*summary\.json"):
        RunDirectory(tmp_path).read_summary()["val"]["mAP"]


@pytest.mark.parametrize("phase", ["null", "7", '"demo"', "{}"])
def test_a_summary_of_no_phase_is_refused(tmp_path, phase):
    (tmp_path / "summary.json").write_text(f'{{"phase": {phase}}}')
    with pytest.raises(InputError, match=r"summary\.json must hold the results of a run"):
        RunDirectory(tmp_path).read_summary()


def test_a_folder_that_does_not_exist_is_said_not_to(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.*does not exist"):
        RunDirectory(tmp_path / "nowhere").read_summary()


def test_outputs_for_the_test_split_are_kept_as_arrays(tmp_path):
    run, rows = RunDirectory(tmp_path), np.arange(6.0).reshape(3, 2)
    run.write_test_outputs({"probabilities": rows, "embedding": rows + 1})
    with np.load(run.test_outputs) as archive:
        assert sorted(archive.files) == ["embedding", "probabilities"]
        np.testing.assert_array_equal(archive["embedding"], rows + 1)


HOLDER = """
import sys, time
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.training.run_directory import RunDirectory
with RunDirectory(sys.argv[1]) as run:
    run.claim(PretrainConfig(workdir="runs/a", learning_rate=4e-4, epochs=3))
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_never_work_in_one_folder_and_a_killed_one_does_not_block_it(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        message = rf"one process at a time\. Received: .*in use by process {holder.pid} on "
        with pytest.raises(InputError, match=message), RunDirectory(tmp_path / "run") as run:
            run.claim(CONFIG)
    finally:
        holder.kill()
        holder.wait()
    for _ in range(2):  # and what one block held the next may have
        with RunDirectory(tmp_path / "run") as run:
            run.claim(CONFIG)


def test_the_rest_of_a_killed_write_is_cleared_away(tmp_path):
    run = RunDirectory(tmp_path)
    run.claim(CONFIG)
    run.checkpoints.mkdir()
    for folder in (run.path, run.checkpoints):
        (folder / ".partial-123-step-0000000001.npz").write_bytes(b"half")
    (run.path / ".partial-123-saved_model" / "variables").mkdir(parents=True)
    (run.path / ".partial-123-saved_model" / "variables" / "variables.index").write_bytes(b"half")
    run.claim(CONFIG)
    assert not list(run.path.glob(".partial*"))
    assert {str(path) for path in files(tmp_path)} == {"flags.txt", ".lock"}
