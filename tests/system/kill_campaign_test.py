"""Runs that are killed again and again, and started again by the same command, against runs that nobody disturbs."""

import json
import os
import pathlib
import shutil
import signal
import subprocess

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from tests.helpers.binaries import REPOSITORY, command
from tests.helpers.kill_campaign import (
    COMMON,
    LAST_STEP,
    MOMENTS,
    RESTART_STEPS,
    RESTARTS,
    Campaign,
    checkpoints_of,
    differences,
    said_by,
    wait_until,
)
from tests.helpers.tiny_datasets import tiny_vectors, write_npz

# Imported by each Python that is started with its folder in PYTHONPATH: the process kills itself with half a write done.
DIES_HALFWAY = """
import contextlib, io, json, os, signal
import numpy
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.training import run_directory

place, count = os.environ["DIES_IN"].split(":")
left = {place: int(count)}
def now(here):
    left[here] = left.get(here, 0) - 1
    return left[here] == 0
def die():
    os.kill(os.getpid(), signal.SIGKILL)

savez, log_epoch, replacing_folder = numpy.savez, run_directory.RunDirectory.log_epoch, atomic_file.replacing_folder
def half_a_checkpoint(file, **arrays):
    if not now("checkpoint"):
        return savez(file, **arrays)
    savez(whole := io.BytesIO(), **arrays)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    die()
def half_a_line(self, record):
    if not now("log"):
        return log_epoch(self, record)
    with self.metrics_file.open("a") as file:
        file.write(json.dumps(record)[:50])
    die()
@contextlib.contextmanager
def half_a_folder(path, **how):
    with replacing_folder(path, **how) as temporary:
        yield temporary
        if now("folder"):
            (temporary / "saved_model.pb").unlink()
            die()
numpy.savez, run_directory.RunDirectory.log_epoch = half_a_checkpoint, half_a_line
atomic_file.replacing_folder = half_a_folder
"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return Campaign(tmp_path_factory.mktemp("campaign"))


def step_of(checkpoint):
    return int(checkpoint.removeprefix("step-").removesuffix(".npz"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAST_STEP)
def test_runs_killed_at_random_end_with_the_bits_of_an_undisturbed_run(campaign, kind):
    record = campaign.killed(kind, 0)
    assert len(record["kills"]) >= len(MOMENTS) - 1
    assert record["differing"] == []
    if kind == "restarts":  # of the learning rate, of which some lie before a kill and some after it
        steps = {step_of(name) for _, name in record["kills"] if name != "none"}
        assert any(RESTART_STEPS[0] < step < RESTART_STEPS[-1] for step in steps), record


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_npz(tiny_vectors(), tmp_path_factory.mktemp("kills") / "data"))


@pytest.mark.parametrize(
    ("binary", "method"),
    [
        pytest.param("pretrain", "mulsupcon", marks=pytest.mark.slow),
        ("pretrain", "cld"),
        pytest.param("finetune", None, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_died_between_two_restarts_of_its_rate_ends_with_the_bits_of_an_undisturbed_run(
    binary, method, data, tmp_path
):
    """What a SIGKILL leaves: an older checkpoint, and a log that is ahead of it. This process makes both.

    The queue of `cld` holds three arrays, keys, labels and distributions.
    """
    phase, config_class = {"pretrain": (pretrain, PretrainConfig), "finetune": (finetune, FinetuneConfig)}[binary]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    settings = {**COMMON, **RESTARTS, "method": method, "data_dir": data, "epochs": 4, "checkpoints_kept": 9}
    if method is None:
        del settings["method"]
    keras.utils.clear_session()  # names of layers are in the files
    phase(config_class(workdir=str(whole), **settings))
    rates = [json.loads(line)["learning_rate"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    periods_passed = np.array([0, 1 / 2, 0, 1 / 4])  # after each epoch: restarts at its end, within, at its end, within
    expected = 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * periods_passed))
    np.testing.assert_allclose(rates, 4e-4 * expected, rtol=1e-5)
    left = whole / "checkpoints" / "step-0000000009.npz"
    (parts / "checkpoints").mkdir(parents=True)
    for path in (whole / "flags.txt", whole / "metrics.jsonl", left):
        shutil.copy(path, parts / path.relative_to(whole))
    keras.utils.clear_session()
    phase(config_class(workdir=str(parts), **settings))
    assert differences(parts, whole) == []


@pytest.mark.slow
def test_a_campaign_goes_on_where_it_stopped_and_counts_its_kills(campaign):
    done = [
        {"kind": kind, "number": 0, "kills": [["end", "none"]], "differing": ["a"] if kind == "images" else []}
        for kind in LAST_STEP
    ]
    campaign.log.write_text("".join(json.dumps(record) + "\n" for record in done))
    campaign.go_on(len(LAST_STEP) + 1)
    assert [record["number"] for record in campaign.records() if record["kind"] == "vectors"] == [0, 1]
    *_, vectors, _, images, _, _, _ = campaign.table().splitlines()
    assert vectors == "| pretraining on vectors | 9 | 2 | 4 | 3 | 2 | 2 |"
    assert images == "| pretraining on images | 1 | 0 | 0 | 1 | 1 | 0 |"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkpoint:1", "checkpoint:4", "log:3", "folder:1"])
def test_runs_killed_in_the_middle_of_a_write_end_with_the_bits_of_an_undisturbed_run(campaign, tmp_path, place):
    expected, run = campaign.whole("tuned"), campaign.runs / f"halfway_{place.replace(':', '_')}"
    (tmp_path / "sitecustomize.py").write_text(DIES_HALFWAY)
    (process,) = campaign.start("tuned", run, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}", DIES_IN=place)
    assert process.wait() == -signal.SIGKILL, said_by(run).read_text()
    assert place.startswith("log") or [path for path in run.rglob(".partial*")]
    campaign.finish("tuned", run)
    assert differences(run, expected) == []


# ---- orders to end


def test_sigterm_saves_says_so_in_one_line_and_exits_with_143(tmp_path):
    data, run = write_npz(tiny_vectors(), tmp_path / "data"), tmp_path / "run"
    line = command("finetune", dataset="npz", data_dir=data, batch_size=16, epochs=100000, patience=100000)
    with subprocess.Popen(
        [*line, f"--workdir={run}"], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        wait_until(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text(), process)
        assert not checkpoints_of(run)
        process.terminate()
        said, _ = process.communicate()
    assert process.returncode == 143, said
    assert said.splitlines()[-1] == "error: Stopped by SIGTERM; everything is saved and the same command continues."
    assert "Traceback" not in said
    (name,) = checkpoints_of(run)
    with np.load(run / "checkpoints" / name) as checkpoint:
        progress = json.loads(str(checkpoint["progress"]))
    assert progress["step"] == step_of(name) > 0
    last = pathlib.Path(run / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["epoch"] == progress["epoch"]
