"""Whole commands: what the pieces do is tested with the pieces."""

import json
import pathlib
import resource
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest

from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig, ExportConfig, PredictConfig
from mulsupcon_tf.evaluate import main as evaluate
from mulsupcon_tf.export import main as export
from mulsupcon_tf.predict import main as predict
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import REPOSITORY, assert_one_line, command, contents, run_binary
from tests.helpers.forking import forked_binary
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_vectors, write_npz

EPOCHS = 60
STARTING_SECONDS = 15  # of processor time, most of it TensorFlow's import
FORKED_SECONDS = 3  # of processor time, without that import
ATTRIBUTES = "@relation r\n@attribute size numeric\n@attribute weight numeric\n@attribute cat {0,1}\n@attribute dog {0,1}\n@data\n"
ROWS = "1,2,1,0\n3,4,0,1\n5,6,1,1\n7,8,0,1\n2,1,1,0\n4,3,0,1\n"


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def epochs_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# ---- the same result to the last bit, on a GPU too


@pytest.mark.slow
def test_training_runs_where_tensorflow_is_set_to_be_deterministic(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_DETERMINISTIC_OPS", "1")  # TensorFlow then refuses its own clock
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        done = run_binary("pretrain", dataset="npz", data_dir=data, epochs=2, batch_size=16, workdir=run)
        assert done.returncode == 0, done.stderr
        assert all(0 <= record["data_wait_share"] <= 1 for record in epochs_of(run))
    first, second = ((run / "encoder.weights.h5").read_bytes() for run in runs)
    assert first == second
    done = run_binary("finetune", dataset="npz", data_dir=data, epochs=2, pretrained=runs[0], workdir=tmp_path / "fine")
    assert done.returncode == 0, done.stderr


# ---- a killed pretraining, continued; then the other phases on it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tiny_vectors(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def killed_and_continued(data, tmp_path_factory):
    """The run directory, the same settings in a dict, and how the two starts went."""
    run = tmp_path_factory.mktemp("runs") / "pretrained"
    settings = {"dataset": "npz", "data_dir": data, "epochs": EPOCHS, "batch_size": 16, "checkpoint_every": "1e"}
    line = command("pretrain", **settings, workdir=run)
    with subprocess.Popen(line, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 150
        while not list((run / "checkpoints").glob("step-*.npz")):
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = {"summary": (run / "summary.json").exists(), "epochs": len(epochs_of(run))}
    return run, settings, left, forked_binary("pretrain", **settings, workdir=run)


def test_the_same_command_continues_a_killed_pretraining_to_the_end_of_an_uninterrupted_one(
    killed_and_continued, tmp_path
):
    run, settings, left, done = killed_and_continued
    assert not left["summary"]
    assert 0 < left["epochs"] < EPOCHS
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stderr
    assert done.stdout.startswith(f"cld on npz: {EPOCHS} epochs in ")
    assert done.stdout.endswith(f"results in {run}\n")
    assert not [path for path in contents(run) if path.name.startswith(".partial")]
    whole = tmp_path / "whole"
    summary = pretrain(PretrainConfig(**settings | {"data_dir": str(settings["data_dir"])}, workdir=str(whole)))
    # A file of weights names its layers, and Keras numbers these on in one process; what is in it is compared below.
    timing = {"seconds", "samples_per_second", "data_wait_share", "encoder_sha256"}
    continued = json.loads((run / "summary.json").read_text())
    assert {k: v for k, v in continued.items() if k not in timing} == {
        k: v for k, v in summary.items() if k not in timing
    }
    for name, array in np.load(whole / "test_outputs.npz").items():
        np.testing.assert_array_equal(array, np.load(run / "test_outputs.npz")[name], err_msg=name)
    for one, other in zip(epochs_of(whole), epochs_of(run), strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - timing:
            assert one[name] == pytest.approx(other[name], rel=1e-6, abs=1e-12), name


def test_finetune_evaluate_export_and_predict_work_on_it(killed_and_continued, data, tmp_path, capsys):
    run, *_ = killed_and_continued
    tuned, exported, vectors = tmp_path / "tuned", tmp_path / "exported", tmp_path / "vectors.npy"
    done = forked_binary(
        "finetune", pretrained=run, workdir=tuned, dataset="npz", data_dir=data, epochs=3, linear_probe=True
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tuned / "summary.json").read_text())
    assert f"{100 * summary['test']['mAP']:.1f}" in next(line for line in done.stdout.splitlines() if "mAP" in line)
    evaluate(EvaluateConfig(workdir=str(tuned)))
    assert capsys.readouterr().out == done.stdout
    export(ExportConfig(workdir=str(tuned), output=str(exported)))
    assert capsys.readouterr().out == f"SavedModel written to {exported}\n"
    np.save(vectors, tiny_vectors().splits["test"].inputs)
    predict(PredictConfig(saved_model=str(exported)), [str(vectors)])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    values = [[record["probabilities"][name] for name in LABEL_NAMES] for record in records]
    np.testing.assert_allclose(values, np.load(tuned / "test_outputs.npz")["probabilities"], atol=2e-6)


# ---- bad input: each case is a binary and its flags, made in a folder, and what the line must say


def arff(folder, *, train=ROWS, test=ROWS, labels=("cat", "dog")):
    folder.mkdir()
    (folder / "own-train.arff").write_text(ATTRIBUTES + train)
    (folder / "own-test.arff").write_text(ATTRIBUTES + test)
    names = "".join(f'<label name="{label}"></label>' for label in labels)
    (folder / "own.xml").write_text(f'<labels xmlns="http://mulan.sourceforge.net/labels">{names}</labels>')
    return {"dataset": "arff", "data_dir": folder}


def hdf5(folder, *, labels_less=0):
    folder.mkdir()
    for part in ("train", "val", "test"):
        split = tiny_vectors().splits["validation" if part == "val" else part]
        with h5py.File(folder / f"own_{part}.hdf5", "w") as file:
            file["feature"], file["target"] = split.inputs, split.labels[: len(split) - labels_less]
    return {"dataset": "hdf5", "data_dir": folder}


def npz(folder):
    return {"dataset": "npz", "data_dir": write_npz(tiny_vectors(), folder)}


def pretrained(folder):
    """A finished pretraining on vectors of another width, as far as fine-tuning looks before it refuses."""
    folder.mkdir()
    (folder / "flags.txt").write_text("--backbone=mlp\n")
    there = {"phase": "pretrain", "backbone": "mlp", "input_shape": [77], "dataset": "yeast", "method": "cld"}
    (folder / "summary.json").write_text(json.dumps(there))
    return folder


NEVER = "1,2,0,1\n3,4,0,1\n5,6,0,1\n7,8,0,1\n"
CASES = {
    "unknown dataset": (
        lambda d: ("pretrain", {"dataset": "yaest"}),
        ["must be one of digits", "'yaest'", "nearest: 'yeast'"],
    ),
    "missing directory": (
        lambda d: ("pretrain", {"dataset": "arff", "data_dir": d / "nowhere"}),
        ["--data_dir", "nowhere"],
    ),
    "no directory given": (lambda d: ("finetune", {"dataset": "npz"}), ["--data_dir", "Received: None"]),
    "ARFF cut in a row": (lambda d: ("pretrain", arff(d / "in", train=ROWS[:-4])), ["own-train.arff", "line 12"]),
    "XML label absent from ARFF": (
        lambda d: ("pretrain", arff(d / "in", labels=("cat", "dgo"))),
        ["own.xml", "'dgo'", "'dog'"],
    ),
    "NaN feature": (
        lambda d: ("pretrain", arff(d / "in", train=ROWS + "1,nan,1,0\n")),
        ["own-train.arff", "NaN", "line 13"],
    ),
    "label never positive": (
        lambda d: ("finetune", arff(d / "in", train=NEVER, test=NEVER)),
        ["every label must be positive", "'cat'"],
    ),
    "HDF5 rows differ": (lambda d: ("pretrain", hdf5(d / "in", labels_less=3)), ["own_train.hdf5", "64", "61"]),
    "batch larger than data": (
        lambda d: ("pretrain", npz(d / "in") | {"batch_size": 65}),
        ["--batch_size", "64 training samples", "=65"],
    ),
    "empty queue": (lambda d: ("pretrain", npz(d / "in") | {"queue_size": 0}), ["--queue_size must be at least 1"]),
    "pretrained elsewhere": (
        lambda d: ("finetune", npz(d / "in") | {"pretrained": pretrained(d / "pre")}),
        ["--pretrained must have this run's architecture", "(10,)", "(77,)", "yeast"],
    ),
    "foreign folder": (
        lambda d: ("pretrain", npz(d / "in") | {"workdir": d / "in"}),
        ["--workdir must be a new or empty folder"],
    ),
    "unwritable folder": (
        lambda d: ("pretrain", npz(d / "in") | {"workdir": d / "in" / "train.npz" / "run"}),
        ["Not a directory"],
    ),
    "backbone of the other kind": (
        lambda d: ("pretrain", npz(d / "in") | {"backbone": "resnet8"}),
        ["backbone resnet8", "(10,)"],
    ),
    "augmentation of the other kind": (
        lambda d: ("pretrain", npz(d / "in") | {"augmentation": "crop"}),
        ["--augmentation must be mask", "crop"],
    ),
}
# Those that fail after TensorFlow's import, in different places: the first as a process of its own, the other forked.
AS_PROCESS, FORKED = "batch larger than data", "pretrained elsewhere"


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(case, tmp_path):
    prepare, parts = CASES[case]
    binary, flags = prepare(tmp_path)
    before = contents(tmp_path)
    flags = {"workdir": tmp_path / "run"} | flags
    flags = {name: str(value) if isinstance(value, pathlib.Path) else value for name, value in flags.items()}
    with pytest.raises((InputError, OSError)) as raised:
        pretrain(PretrainConfig(**flags)) if binary == "pretrain" else finetune(FinetuneConfig(**flags))
    for part in parts:
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def started(binary, **flags):
    """Of a process of its own: how it ended, and the processor time that it took."""
    before = cpu_seconds()
    done = run_binary(binary, **flags)
    return done, cpu_seconds() - before


def forked(binary, **flags):
    """The same of a forked process."""
    done = forked_binary(binary, **flags)
    return done, done.cpu_seconds


def assert_refused(case, folder, run, limit):
    prepare, parts = CASES[case]
    binary, flags = prepare(folder)
    before = contents(folder)
    done, seconds = run(binary, **{"workdir": folder / "run"} | flags)
    # What was read may have been said before, as for a run that goes on.
    *said, done.stderr = done.stderr.splitlines()
    assert not any(line.startswith(("error", "Traceback", " ")) for line in said)
    assert_one_line(done, *parts)
    assert seconds < limit
    assert contents(folder) == before
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("case", "run", "limit"), [(AS_PROCESS, started, STARTING_SECONDS), (FORKED, forked, FORKED_SECONDS)]
)
def test_the_binaries_say_so_on_standard_error(case, run, limit, tmp_path):
    assert_refused(case, tmp_path, run, limit)


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(set(CASES) - {AS_PROCESS}))
def test_the_binaries_say_so_on_standard_error_in_every_case(case, tmp_path):
    assert_refused(case, tmp_path, started, STARTING_SECONDS)


# ---- real data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["corel5k", "enron", "delicious"])
def test_large_label_sets_train_in_little_memory_and_without_a_warning(shared_data, tmp_path, name):
    common = {"dataset": name, "data_dir": shared_data / "mulan", "epochs": 2}
    for binary, flags in (("pretrain", {}), ("finetune", {"pretrained": tmp_path / "pretrain"})):
        python, _, *program = command(binary, **common, **flags, workdir=tmp_path / binary)
        line = [python, "-m", "tests.helpers.peak_memory", tmp_path / "peak", *program]
        done = subprocess.run(line, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False)
        said = done.stderr
        assert done.returncode == 0, said
        assert int((tmp_path / "peak").read_text()) < 3 * 1024**2  # KiB
        assert "warning" not in said.lower()
        assert "error:" not in said
    assert json.loads((tmp_path / "finetune" / "summary.json").read_text())["test"]["mAP"] > 0
