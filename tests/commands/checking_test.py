"""What `check` says of photos and of vectors, and what it says of a training, which is really begun."""

import logging
import re
from types import SimpleNamespace

import numpy as np
import pytest

from mulsupcon_tf.check import main as check
from mulsupcon_tf.commands import checking
from mulsupcon_tf.commands.phase_data import read_dataset, say_what_was_read
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.config.program_flags import CheckConfig
from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.datasets.survey import summary_lines
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_folders import write_jpeg
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Sixty photos, one of them broken and one beside the table."""
    folder = tmp_path_factory.mktemp("photos")
    rows = ["file,labels", *(f"{number}.jpg,{'sea' if number % 3 else 'beach;sky'}" for number in range(60))]
    for number in range(61):
        write_jpeg(folder / f"{number}.jpg", number)
    (folder / "7.jpg").write_bytes(b"no image")
    (folder / "labels.csv").write_text("\n".join([*rows, ""]))
    return folder


def lines_of(capsys, **settings):
    check(CheckConfig(**settings))
    return capsys.readouterr().out.splitlines()


def test_photos_are_described_with_what_to_look_at(photos, capsys, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in photos.rglob("*")}
    lines = lines_of(capsys, dataset="csv", data_dir=str(photos), timed_steps=0, workdir=str(tmp_path / "run"))
    assert lines[0].startswith("csv: 60 images (")
    (row,) = [line.split() for line in lines if line.startswith("sky")]
    assert sum(map(int, row[1:4])) == 20
    (broken,) = [line for line in lines if "files that are no whole image" in line]
    assert re.search(r", 1 of \d+ in \w+, .*'7.jpg' \(an image must be a JPEG", broken)
    assert "- image files that no row of the table names, 1: '60.jpg'" in lines
    assert not [line for line in lines if line.startswith("pretraining")]
    assert {path: path.stat().st_mtime_ns for path in photos.rglob("*")} == before
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_time_memory_and_disk_are_said_for_the_flags(photos, capsys, tmp_path):
    """Held against a pretraining with the same flags."""
    settings = {"dataset": "csv", "data_dir": str(photos), "backbone": "resnet8", "image_size": 32, "batch_size": 8}
    settings |= {"queue_size": 16, "epochs": 7, "cache": True}
    lines = lines_of(capsys, **settings, timed_steps=1)
    title, cache, time, memory, disk = lines[-5:]
    run = PretrainConfig(**settings, skip_bad_images=True, workdir=str(tmp_path / "run"))
    summary = pretrain(run)
    assert title == (
        f"pretraining with these flags: resnet8 at 32 pixels, 7 epochs, {summary['steps']} steps of 8 samples"
    )
    assert re.fullmatch(r"memory for --cache: [\d.]+ KiB", cache)
    assert re.match(r"time for these steps .*: about .* by 1 step of ", time)
    assert re.match(r"memory of this process .*: [\d.]+ [MG]iB$", memory)
    said = float(re.fullmatch(r"disk: ([\d.]+) MiB a checkpoint, of which 2 are kept", disk)[1])
    written = max(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert said * 2**20 == pytest.approx(written, rel=0.05)


@pytest.mark.parametrize(
    "broken",
    [
        *(pytest.param((split,), marks=pytest.mark.slow) for split in ("train", "validation")),
        ("test",),
        ("train", "validation"),
    ],
    ids="-".join,
)
def test_nothing_is_timed_where_no_image_of_a_split_can_be_read(capsys, tmp_path, broken):
    parts = [("train", "validation", "test")[number % 3] for number in range(24)]
    rows = [f"{number}.jpg,{'sea' if number % 2 else 'sky'},{part}" for number, part in enumerate(parts)]
    for number, part in enumerate(parts):
        write_jpeg(tmp_path / f"{number}.jpg", number)
        if part in broken:
            (tmp_path / f"{number}.jpg").write_bytes(b"no image")
    (tmp_path / "labels.csv").write_text("\n".join(["file,labels,split", *rows, ""]))
    settings = {"backbone": "resnet8", "image_size": 32, "batch_size": 4, "cache": True}
    lines = lines_of(capsys, dataset="csv", data_dir=str(tmp_path), **settings)
    assert len([line for line in lines if "files that are no whole image, 8 of 8 in" in line]) == len(broken)
    assert lines[-1] == f"nothing can be timed: no image of {' and '.join(broken)} can be read"


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in_memory")
    return {dataset.kind: str(write_npz(dataset, folder / dataset.kind)) for dataset in (tiny_vectors(), tiny_images())}


def test_vectors_and_images_in_memory_are_described_too(in_memory, capsys):
    for kind, folder in in_memory.items():
        lines = lines_of(capsys, dataset="npz", data_dir=folder, timed_steps=0)
        assert lines[0] == f"npz: 112 {kind}s (64 train, 24 validation, 24 test)"
    settings = {"dataset": "npz", "data_dir": in_memory["vector"], "method": "mulsupcon", "batch_size": 32, "epochs": 3}
    title, time, _, disk = lines_of(capsys, **settings, timed_steps=1)[-4:]
    assert title == "pretraining with these flags: mlp, 3 epochs, 6 steps of 32 samples"
    assert re.match(r"time for these steps .*: about .* by 1 step of ", time) and disk.endswith("of which 2 are kept")


@pytest.mark.slow
def test_a_frozen_backbone_is_timed_with_the_features_that_are_not_there_yet(in_memory, capsys, tmp_path):
    """Held against a run with the same flags; another program may have had the processor."""
    weights = tmp_path / "some.weights.h5"
    save_weights(build_backbone("resnet8", (32, 32, 3)), weights)
    settings = {"backbone": "resnet8", "backbone_weights": str(weights), "freeze_backbone": True, "image_size": 32}
    settings |= {"batch_size": 8, "epochs": 3, "feature_cache": str(tmp_path / "cache"), "method": "mulsupcon"}
    settings |= {"dataset": "npz", "data_dir": in_memory["image"], "queue_size": 16}
    lines = lines_of(capsys, **settings, timed_steps=6)
    assert not [line for line in lines if "too few for a network that starts from random weights" in line]
    title, features, time, memory, disk = lines[-5:]
    assert title == "pretraining with these flags: resnet8 at 32 pixels, 3 epochs, 24 steps of 8 samples"
    found = re.fullmatch(
        r"features of 112 images, once for all runs: about .*, by (\d+) images a second; ([\d.]+) KiB on disk", features
    )
    assert re.match(r"memory of this process .*: [\d.]+ [MG]iB$", memory)
    assert not (tmp_path / "cache").exists()
    summary = pretrain(PretrainConfig(**settings, workdir=str(tmp_path / "run")))
    written = sum(path.stat().st_size - 128 for path in (tmp_path / "cache").glob("*.npy"))  # without the headers
    assert float(found[2]) * 1024 == pytest.approx(written, rel=0.01)
    number, unit = re.search(r"by 6 steps of ([\d.]+) (ms|s) each", time).groups()
    said = float(number) * {"ms": 0.001, "s": 1}[unit]
    assert said / 20 < 8 / summary["samples_per_second"] < 20 * said
    checkpoint = max(path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert float(re.match(r"disk: ([\d.]+) MiB a checkpoint", disk)[1]) * 2**20 == pytest.approx(checkpoint, rel=0.05)
    assert "features of the images: there already, for all runs" in lines_of(capsys, **settings, timed_steps=1)
    lines = lines_of(capsys, **settings, timed_steps=1, feature_views=2)
    assert [line for line in lines if line.startswith("features of 64 images and views, once for all runs")]


def test_the_pace_of_features_is_that_of_the_second_batch(monkeypatch):
    """Of 100 images the second batch has 36, of 50 there is one batch, which is encoded twice."""
    clock = [0.0]

    def blocks(split, *_, **__):
        clock[0] += len(split) * (10.0 if clock[0] == 0 else 0.5)
        yield

    monkeypatch.setattr(checking.time, "perf_counter", lambda: clock[0])
    for count in (100, 50):
        clock[0] = 0.0
        samples = Split(np.zeros((count, 1)), np.zeros((count, 1)))
        assert checking._images_per_second(SimpleNamespace(blocks=blocks), samples) == 2


def test_what_is_wrong_is_said_after_what_was_found(in_memory, capsys):
    with pytest.raises(InputError, match="--batch_size must be at most the 64 training samples"):
        check(CheckConfig(dataset="npz", data_dir=in_memory["vector"], batch_size=65))
    assert "to look at:" in capsys.readouterr().out
    with pytest.raises(InputError, match="--data_dir must be an existing folder"):
        check(CheckConfig(dataset="npz", data_dir="/nowhere"))


def test_true_distributions_that_a_method_needs_are_asked_for_before_anything_is_said(in_memory, capsys):
    for timed_steps in (0, 3):
        with pytest.raises(InputError, match="--method=truth needs a dataset with true label distributions"):
            check(CheckConfig(dataset="npz", data_dir=in_memory["vector"], method="truth", timed_steps=timed_steps))
    assert not capsys.readouterr().out


def test_a_run_begins_with_the_three_lines_of_the_chief(photos, caplog):
    dataset = read_dataset(CheckConfig(dataset="csv", data_dir=str(photos)))
    caplog.clear()
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        say_what_was_read(PretrainConfig(), dataset, Devices())
        assert caplog.messages == summary_lines(dataset) and len(caplog.messages) == 3
        say_what_was_read(PretrainConfig(validation_fraction=0.0), dataset, Devices())
    count = len(dataset.splits["train"]) + len(dataset.splits["validation"])
    assert caplog.messages[-1] == f"--validation_fraction=0: validation is trained on too, {count} samples with train"
