"""Faults that a run meets from outside, made for real: full and read-only disks, damaged files, another user's folder."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.evaluating import evaluate_run
from mulsupcon_tf.commands.exporting import export_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.finished_run import load_classifier
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig, ExportConfig
from mulsupcon_tf.datasets.csv_table import read_csv
from mulsupcon_tf.datasets.images.voc import read_annotation
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.model_inputs import Refused, samples_of
from mulsupcon_tf.serving.saved_model import whole_folder, write_saved_model
from mulsupcon_tf.serving.search_index import SearchIndex
from mulsupcon_tf.training.checkpoints import CheckpointStore
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.training.tensorboard import TensorBoard, write_projector
from mulsupcon_tf.utils.atomic_file import write_text
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import REPOSITORY, contents
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_vectors, write_npz

COMMON = {"dataset": "npz", "batch_size": 16, "epochs": 3, "checkpoint_every": "1e"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tiny_vectors(), tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished fine-tuning; tests work on copies of it."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    finetune(tuning(data, folder))
    return folder


def tuning(data, folder):
    return FinetuneConfig(**COMMON, data_dir=str(data), workdir=str(folder))


def copy_of(run, folder):
    return pathlib.Path(shutil.copytree(run, folder / "copy"))


def outputs_of(run):
    with np.load(run / "test_outputs.npz") as archive:
        return {name: archive[name] for name in archive.files}


def assert_same_outputs(run, other):
    for name, array in outputs_of(run).items():
        np.testing.assert_array_equal(array, outputs_of(other)[name], err_msg=name)


def test_the_page_on_reliability_names_tests_that_exist():
    page = (REPOSITORY / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:tests/)?(\w+_test)(?:\.py)?`", page))
    assert len(named) > 8
    assert named <= {path.stem for path in (REPOSITORY / "tests").rglob("*_test.py")}


# ---- disks


@pytest.fixture
def disk(tmp_path):
    """Mounts a file system of its own; gives its folder and a function that mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        done = subprocess.run(["mount", *options, folder], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")

    if shutil.which("mount") is None:
        pytest.skip("file systems cannot be mounted here: no mount command")
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    yield folder, lambda options: mount("-o", f"remount,{options}")
    subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def full(folder):
    """Leaves one page free."""
    filler, page = folder / "filler", b"\0" * 4096
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(page)
    os.truncate(filler, filler.stat().st_size - len(page))
    yield
    filler.unlink()


def small_classifier():
    return MultiLabelClassifier(build_backbone("mlp", (10,), train_features=np.eye(10)), len(LABEL_NAMES))


WRITERS = {
    "checkpoint": lambda folder: CheckpointStore(folder).save(7, {"model": [np.ones(9000)]}, {}),
    "log": lambda folder: RunDirectory(folder).log_epoch({"epoch": 1, "text": "x" * 9000}),
    "text": lambda folder: write_text(folder / "summary.json", "x" * 9000),
    "encoder weights": lambda folder: save_weights(
        build_backbone("mlp", (10,), train_features=np.eye(10)), folder / "encoder.weights.h5"
    ),
    "SavedModel": lambda folder: write_saved_model(
        small_classifier(), folder / "saved_model", label_names=LABEL_NAMES, thresholds={"macro_f1": 0.5}
    ),
    "TensorBoard": lambda folder: TensorBoard(folder).log_histograms({"d": np.arange(9000.0)}, 1),
    "projector": lambda folder: write_projector(folder, np.ones((24, 400)), tiny_vectors()),
    "export": lambda folder: write_an_export(folder / "export"),
}


def write_an_export(folder):
    with whole_folder(folder, replace=False) as partial:
        (partial / "model.tflite").write_bytes(b"0" * 9000)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_an_error_of_the_operating_system_and_leaves_nothing_half_written(disk, writer):
    folder, _ = disk
    with full(folder):
        before = contents(folder)
        with pytest.raises(OSError, match="No space left on device") as raised:
            WRITERS[writer](folder)
            TensorBoard(folder).flush()
        assert raised.value.errno == errno.ENOSPC
        assert str(folder) in str(raised.value)
        if writer not in ("log", "TensorBoard", "projector"):  # which a continued run writes anew
            assert contents(folder) == before


@pytest.mark.slow
def test_a_run_that_fills_the_disk_keeps_its_last_checkpoint_and_continues_when_there_is_room(disk, data, finished):
    folder, remount = disk
    remount("size=7m")  # a checkpoint takes 4.3 MB
    with pytest.raises(OSError, match=r"No space left on device: .*step-0000000008\.npz"):
        finetune(tuning(data, folder / "run"))
    assert [path.name for path in (folder / "run" / "checkpoints").iterdir()] == ["step-0000000004.npz"]
    assert not (folder / "run" / "summary.json").exists()
    remount("size=40m")
    finetune(tuning(data, folder / "run"))
    assert_same_outputs(folder / "run", finished)
    assert [record["epoch"] for record in RunDirectory(folder / "run").epochs()] == [1, 2, 3]


def test_a_disk_that_fills_up_with_results_leaves_a_run_that_is_not_finished_and_ends_when_there_is_room(disk, data):
    folder, remount = disk
    run, outputs = RunDirectory(folder / "run"), []
    config = dataclasses.replace(tuning(data, run.path), epochs=1)
    # A checkpoint takes 4.3 MB, each of the two forms of the model 1.1.
    for size, name in (("4700k", "model.keras"), ("5800k", "saved_model")):
        remount(f"size={size}")
        with pytest.raises(OSError, match=rf"No space left on device: .*{name}"):
            finetune(config)
        assert not (run.path / name).exists() and not list(run.path.glob(".partial*"))
        with pytest.raises(InputError, match="which has none: is its run finished"):
            evaluate_run(EvaluateConfig(workdir=str(run.path)))
        outputs.append(outputs_of(run.path))
    remount("size=40m")
    summary = finetune(config)
    outputs.append(outputs_of(run.path))
    for name, array in outputs[0].items():
        np.testing.assert_array_equal([each[name] for each in outputs[1:]], [array, array], err_msg=name)
    assert evaluate_run(EvaluateConfig(workdir=str(run.path)))["test"]["mAP"] == pytest.approx(summary["test"]["mAP"])


def test_a_read_only_folder_is_one_line_where_there_is_work_and_enough_where_there_is_none(disk, data, finished):
    folder, remount = disk
    remount("size=40m")
    shutil.copytree(finished, folder / "done")
    shutil.copytree(finished, folder / "undone")
    (folder / "undone" / "summary.json").unlink()
    remount("ro")
    for name in ("undone", "new"):
        with pytest.raises(OSError, match=rf"Read-only file system: .*{name}"):
            finetune(tuning(data, folder / name))
    assert finetune(tuning(data, folder / "done"))["phase"] == "finetune"
    assert evaluate_run(EvaluateConfig(workdir=str(folder / "done")))["test"]["mAP"] > 0


@contextlib.contextmanager
def nobody():
    """This process with the rights of the user nobody."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_folder_of_another_user_is_refused_and_untouched(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with run:
        run.claim(PretrainConfig(workdir="w"))
    top = pathlib.Path(tempfile.gettempdir()).resolve()
    for folder in (run.path, tmp_path, *tmp_path.parents):
        if folder != top and folder.is_relative_to(top):
            folder.chmod(0o755)
    before = contents(run.path)
    with nobody(), pytest.raises(PermissionError, match=r"Permission denied: .*\.lock"):
        RunDirectory(run.path).claim(PretrainConfig(workdir="w"))
    assert contents(run.path) == before


# ---- pipes and devices, which a reader waits for, or never comes to the end of


def in_a_run(read):
    return lambda path: read(RunDirectory(path.parent))


def as_dataset(name, **further):
    """Reads the folder in which the file lies; `further`: texts of the files beside it."""

    def read(path):
        for beside, text in further.items():
            (path.parent / beside.replace("_", ".")).write_text(text)
        load_dataset(name, data_dir=str(path.parent))

    return read


def samples_of_one(path):
    refused = Refused()
    assert list(samples_of([str(path)], 4, refused)) == []
    refused.raise_if_any()


def coco_of(path):
    folder = path.parents[1]
    for name in ("train2017", "val2017"):
        (folder / name).mkdir()
    (folder / "annotations" / "instances_val2017.json").write_text("{}")
    load_dataset("coco", data_dir=str(folder))


# By the path of a file what reads it.
PIPES = {
    "train.npz": as_dataset("npz", test_npz=""),
    "train.h5": as_dataset("hdf5", test_h5=""),
    "scores.mat": as_dataset("ldl"),
    "t.arff": as_dataset("arff", t_xml="<labels><label name='a'/></labels>"),
    "t.xml": as_dataset("arff", t_arff=""),
    "labels.csv": functools.partial(read_csv, key="file"),
    "annotations/instances_train2017.json": coco_of,
    "ImageSets/Main/train.txt": lambda path: load_dataset("voc2007", data_dir=str(path.parents[2])),
    "000001.xml": read_annotation,
    "summary.json": in_a_run(RunDirectory.read_summary),
    "flags.txt": read_flags,
    "metrics.jsonl": in_a_run(RunDirectory.epochs),
    "head.npz": in_a_run(RunDirectory.read_head),
    "model.keras": in_a_run(load_classifier),
    "index.npz": SearchIndex.read,
    "row.npy": samples_of_one,
}


@pytest.fixture
def impatient():
    """Whatever takes longer than some seconds is an error."""

    def late(number, frame):
        raise TimeoutError("it waits for the pipe")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", PIPES)
def test_a_pipe_in_place_of_a_file_is_one_line_and_nobody_waits_for_it(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    with pytest.raises((InputError, OSError), match="not a regular file") as raised:
        PIPES[name](path)
    assert path.name in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.usefixtures("impatient")
def test_a_pipe_among_checkpoints_is_passed_over_and_one_for_the_weights_is_one_line(tmp_path, caplog):
    store = CheckpointStore(tmp_path)
    store.save(3, {"model": [np.ones(2)]}, {"step": 3})
    os.mkfifo(tmp_path / "step-0000000005.npz")
    _, progress = store.load_latest()
    assert progress == {"step": 3} and "not a regular file" in caplog.text
    run = RunDirectory(tmp_path)
    os.mkfifo(run.encoder_weights)
    reading = mock.patch.object(RunDirectory, "read_summary", return_value={"encoder_sha256": "0"})
    rule = r"whole encoder\.weights\.h5\. Received: .*not a regular file"
    with reading, pytest.raises(InputError, match=rule), run.whole_encoder_weights("--pretrained"):
        pass


def test_an_output_never_takes_the_place_of_a_device(tmp_path):
    """As root, `--output=/dev/null` or `/dev/stdout` would do away with it."""
    pipe, link = tmp_path / "pipe.json", tmp_path / "link.json"
    os.mkfifo(pipe)
    link.symlink_to("/proc/self/fd/1")
    for path in (pipe, link):
        with pytest.raises(OSError, match=rf"not a regular file: '{path}'"):
            write_text(path, "{}")
    assert pipe.is_fifo() and link.is_symlink() and len(list(tmp_path.iterdir())) == 2
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.json", tmp_path / "file" / "results.json"):
        with pytest.raises((IsADirectoryError, NotADirectoryError)) as raised:
            write_text(path, "{}")
        assert raised.value.filename == str(path)  # not the temporary name


# ---- other data, damaged files


def test_a_run_is_not_continued_when_its_label_file_has_changed(data, finished, tmp_path):
    run, other = copy_of(finished, tmp_path), tmp_path / "data"
    shutil.copytree(data, other)
    arrays = dict(np.load(other / "train.npz"))
    arrays["labels"][3] = 1 - arrays["labels"][3]
    np.savez(other / "train.npz", **arrays)
    (run / "summary.json").unlink()
    before = contents(run / "checkpoints")
    with pytest.raises(InputError, match=r"those that .*copy saw, .*Received: other labels"):
        finetune(tuning(other, run))
    assert contents(run / "checkpoints") == before


@pytest.mark.slow
def test_with_its_newest_checkpoint_damaged_a_run_ends_as_it_would_have_and_with_all_damaged_it_stops(
    data, finished, tmp_path, caplog
):
    run = copy_of(finished, tmp_path)
    (run / "summary.json").unlink()
    older, newest = sorted((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    finetune(tuning(data, run))
    assert f"{newest} is damaged" in caplog.text
    assert_same_outputs(run, finished)
    (run / "summary.json").unlink()
    for path in (older, newest):
        path.write_bytes(b"PK")
    with pytest.raises(InputError, match="Received: only damaged ones"):
        finetune(tuning(data, run))


@pytest.mark.parametrize("text", ["", "{", '{"phase": ', "[1]", "{}", "\xff\0"])
def test_a_damaged_summary_is_one_line_that_says_how_to_mend_it_and_mending_it_works(data, finished, tmp_path, text):
    run = copy_of(finished, tmp_path)
    (run / "summary.json").write_bytes(text.encode("latin-1"))
    for use in (
        lambda: evaluate_run(EvaluateConfig(workdir=str(run))),
        lambda: export_run(ExportConfig(workdir=str(run), output=str(tmp_path / "exported"))),
        lambda: finetune(tuning(data, run)),
    ):
        with pytest.raises(
            InputError, match=r"without the file, the run's command writes it anew\. Received: "
        ) as raised:
            use()
        assert "\n" not in str(raised.value)
    if text == "{":
        (run / "summary.json").unlink()
        finetune(tuning(data, run))
        assert_same_outputs(run, finished)


def damaged(content, damage):
    if damage == "flipped bit":
        content = bytearray(content)
        content[len(content) // 2] ^= 8
    return {"truncated": content[:-300], "empty": b"", "flipped bit": bytes(content)}[damage]


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped bit"])
def test_a_damaged_model_is_one_line(finished, tmp_path, damage):
    run = copy_of(finished, tmp_path)
    (run / "model.keras").write_bytes(damaged((run / "model.keras").read_bytes(), damage))
    with pytest.raises(InputError, match=r"--workdir must hold a whole model\.keras\. Received: "):
        evaluate_run(EvaluateConfig(workdir=str(run)))


def test_a_model_that_carries_code_is_refused_and_the_code_does_not_run(finished, tmp_path):
    run, trace = copy_of(finished, tmp_path), tmp_path / "the code has run"
    layer = keras.layers.Lambda(eval(f"lambda x: (open({str(trace)!r}, 'w'), x)[1]"))
    keras.Sequential([keras.Input((10,)), layer]).save(run / "model.keras")
    trace.unlink()
    with pytest.raises(InputError, match=r"whole model\.keras\. Received: .*Lambda"):
        evaluate_run(EvaluateConfig(workdir=str(run)))
    assert not trace.exists()


def test_a_flipped_bit_in_the_encoders_weights_does_not_pass_for_a_weight(data, tmp_path):
    there = tmp_path / "pre"
    pretrain(PretrainConfig(**COMMON | {"epochs": 1}, data_dir=str(data), workdir=str(there)))
    content = (there / "encoder.weights.h5").read_bytes()
    tuned = FinetuneConfig(**COMMON, data_dir=str(data), workdir=str(tmp_path / "tuned"), pretrained=str(there))
    for damage in ("truncated", "flipped bit"):
        (there / "encoder.weights.h5").write_bytes(damaged(content, damage))
        with pytest.raises(InputError, match=r"whole encoder\.weights\.h5\. Received: "):
            finetune(tuned)
    summary = json.loads((there / "summary.json").read_text())
    del summary["encoder_sha256"]  # as an earlier version wrote it
    (there / "summary.json").write_text(json.dumps(summary))
    (there / "encoder.weights.h5").write_bytes(content)
    assert finetune(tuned)["method"] == "cld"
