"""Runs that are killed again and again, and started again by the same command, against runs that nobody disturbs.

The processes are real, the moments are random (seeded) or the worst there are. What is compared, is compared bit by bit.
"""

import io
import json
import os
import pathlib
import signal
import subprocess
import time
import zipfile

import h5py
import numpy as np
import pytest

from tests.helpers.binaries import REPOSITORY, command
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz

TIMES = {"seconds", "samples_per_second", "data_wait_share"}
COMMON = {
    "dataset": "npz",
    "batch_size": 16,
    "checkpoint_every": 3,
}  # steps, so that most checkpoints lie within an epoch
LAST_STEP = {"vectors": 160, "images": 160, "tuned": 120, "mirrored": 80}
PATIENCE = 240  # seconds that a start may take to get where it is to be killed, on a busy machine

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


# ---- commands


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """The command line of each kind of run, without its run directory, and the folder for the run directories."""
    folder = tmp_path_factory.mktemp("campaign")
    vectors, images = write_npz(tiny_vectors(), folder / "vectors"), write_npz(tiny_images(), folder / "images")
    runs = folder / "runs"
    runs.mkdir()
    small = {"backbone": "resnet8", "image_size": 16, "augmentation": "simclr", "bce_weight": 1, "method": "rld"}
    return runs, {
        "vectors": command("pretrain", **COMMON, data_dir=vectors, epochs=40),
        "images": command("pretrain", **COMMON, **small, data_dir=images, epochs=40),
        "tuned": command("finetune", **COMMON, data_dir=vectors, epochs=30, pretrained=runs / "whole_vectors"),
        "mirrored": command("pretrain", **COMMON, data_dir=vectors, epochs=20, strategy="mirrored", logical_devices=2),
    }


def start(line, run, **environment):
    return subprocess.Popen(
        [*line, f"--workdir={run}"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def finish(line, run):
    with start(line, run) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def whole(lines):
    """Gives the run directory of an undisturbed run of a kind."""
    runs, line_of = lines

    def run_of(kind):
        run = runs / f"whole_{kind}"
        if not run.exists():
            finish(line_of[kind], run)
        return run

    return run_of


# ---- what is compared


def weights_of(file):
    arrays = {}
    with h5py.File(file) as weights:
        weights.visititems(
            lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return arrays


def without_times(record):
    return {name: value for name, value in record.items() if name not in TIMES}


def results_of(run):
    """Everything that a run leaves but the times: {name: array or plain value}."""
    newest = max((run / "checkpoints").iterdir())
    results = {"newest": newest.name, "summary": without_times(json.loads((run / "summary.json").read_text()))}
    with np.load(newest) as checkpoint:
        results |= {f"checkpoint/{name}": checkpoint[name] for name in checkpoint.files if name != "progress"}
        results["progress"] = without_times(json.loads(str(checkpoint["progress"])))
    with np.load(run / "test_outputs.npz") as outputs:
        results |= {f"outputs/{name}": outputs[name] for name in outputs.files}
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines()):
        results[f"epoch {number + 1}"] = without_times(json.loads(line))
    if (run / "model.keras").exists():
        with zipfile.ZipFile(run / "model.keras") as archive:
            results |= weights_of(io.BytesIO(archive.read("model.weights.h5")))
        variables = run / "saved_model" / "variables" / "variables.data-00000-of-00001"
        results["saved_model"] = np.frombuffer(variables.read_bytes(), np.uint8)
    else:
        results |= weights_of(run / "encoder.weights.h5")
    return results


def assert_same(run, other):
    results, expected = results_of(run), results_of(other)
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(results[name], value, err_msg=name)
        else:
            assert results[name] == value, name
    assert not [path for path in run.rglob(".partial*")]


# ---- moments


def checkpoints_of(run):
    return {path.name for path in (run / "checkpoints").glob("step-*.npz")}


def wait_until(condition, process):
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def kill_at(moment, kind, run, process, rng):
    """Waits for the moment and kills; returns whether the process was still at work."""
    before = checkpoints_of(run)
    if moment == "first seconds":
        time.sleep(rng.uniform(0, 8))
    elif moment == "training":
        wait_until(lambda: checkpoints_of(run) - before, process)
        time.sleep(rng.uniform(0, 0.25))
    elif moment == "end":
        wait_until(lambda: f"step-{LAST_STEP[kind]:010d}.npz" in checkpoints_of(run), process)
        time.sleep(rng.uniform(0, 0.2))
    process.kill()
    process.wait()
    return process.returncode == -signal.SIGKILL


MOMENTS = ("first seconds", "training", "training", "first seconds", "training", "training", "end", "end")


@pytest.mark.slow
@pytest.mark.parametrize("seed, kind", enumerate(LAST_STEP))
def test_runs_killed_at_random_end_with_the_bits_of_an_undisturbed_run(lines, whole, seed, kind):
    runs, line_of = lines
    expected, run, rng = whole(kind), runs / f"killed_{kind}", np.random.default_rng(seed)
    kills = []
    for moment in MOMENTS:
        with start(line_of[kind], run) as process:
            if not kill_at(moment, kind, run, process, rng):
                break
        kills.append((moment, max(checkpoints_of(run), default="none")))
    finish(line_of[kind], run)
    print(f"{kind}: killed {len(kills)} times: {kills}")
    assert len(kills) >= 7
    assert_same(run, expected)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["checkpoint:1", "checkpoint:4", "log:3", "folder:1"])
def test_runs_killed_in_the_middle_of_a_write_end_with_the_bits_of_an_undisturbed_run(lines, whole, tmp_path, place):
    runs, line_of = lines
    expected, run = whole("tuned"), runs / f"halfway_{place.replace(':', '_')}"
    (tmp_path / "sitecustomize.py").write_text(DIES_HALFWAY)
    with start(line_of["tuned"], run, PYTHONPATH=f"{tmp_path}{os.pathsep}{REPOSITORY}", DIES_IN=place) as process:
        said, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert place.startswith("log") or [path for path in run.rglob(".partial*")]
    finish(line_of["tuned"], run)
    assert_same(run, expected)


# ---- orders to end


def test_sigterm_saves_says_so_in_one_line_and_exits_with_143(tmp_path):
    data, run = write_npz(tiny_vectors(), tmp_path / "data"), tmp_path / "run"
    line = command("finetune", dataset="npz", data_dir=data, batch_size=16, epochs=100000, patience=100000)
    with start(line, run) as process:
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
    assert progress["step"] == int(name.removeprefix("step-").removesuffix(".npz")) > 0
    last = pathlib.Path(run / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["epoch"] == progress["epoch"]
