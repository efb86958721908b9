import json
import pathlib
import shutil

import numpy as np
import pytest

from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.phase_data import read_dataset, trained_on, with_train_of, without_bad_images
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_folders import write_jpeg

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")


@pytest.mark.parametrize("validation", [{}, pytest.param({"validation_fraction": 0.0}, marks=pytest.mark.slow)])
def test_both_phases_train_on_the_same_share_of_the_images_that_can_be_read(tmp_path, validation):
    rows = ["file,labels", *(f"{number}.jpg,{'sea' if number % 3 else 'beach;sky'}" for number in range(60))]
    for number in range(60):
        write_jpeg(tmp_path / "photos" / f"{number}.jpg", number)
    (tmp_path / "photos" / "labels.csv").write_text("\n".join([*rows, ""]))
    settings = {"dataset": "csv", "data_dir": str(tmp_path / "photos"), "seed": 3, "skip_bad_images": True}
    whole = read_dataset(PretrainConfig(**settings))
    broken = [whole.splits[name].inputs.paths[4] for name in ("train", "validation", "test")]
    for path in broken:
        with open(path, "wb") as file:  # noqa: PTH123 paths are text here
            file.write(b"\xff\xd8\xff, and nothing more")
    seen = []
    for kind in (PretrainConfig, FinetuneConfig):
        config = kind(**settings, **validation, label_fraction=0.5, workdir=str(tmp_path / kind.__name__))
        with RunDirectory(config.workdir) as run:
            readable = without_bad_images(config, run, with_train_of(config, read_dataset(config)), Devices())
            dataset = trained_on(config, readable)
            # A split is looked at whole, whatever share of train is trained on.
            listed = {line.split("\t")[0] for line in run.bad_images.read_text().splitlines()}
        assert listed == {path.rpartition("/")[2] for path in broken}
        assert len(dataset.splits["train"]) == round(0.5 * len(readable.splits["train"]))
        seen.append(dataset.splits["train"])
    assert seen[0].inputs.paths.tolist() == seen[1].inputs.paths.tolist()
    np.testing.assert_array_equal(seen[0].labels, seen[1].labels)
    assert not set(broken) & set(seen[0].inputs.paths)


SIZES = {"train": 16, "validation": 6, "test": 6}


def write_photos(folder):
    """Photos with a column `split`, in files named by it."""
    rows = ["file,labels,split"]
    for split, count in SIZES.items():
        for number in range(count):
            name = f"{split}{number}.jpg"
            write_jpeg(folder / name, len(rows))
            rows.append(f"{name},{'sea' if number % 3 else 'beach;sky'},{split}")
    (folder / "labels.csv").write_text("\n".join([*rows, ""]))


def damage(path):
    """Of the same size, so that the data count as the same."""
    path.write_bytes(bytes(path.stat().st_size))


def settings_of(folder, workdir, **others):
    network = {"dataset": "csv", "backbone": "resnet8", "image_size": 16, "freeze_backbone": False}
    given = {"data_dir": str(folder), "workdir": str(workdir), "batch_size": 8, "epochs": 2, "checkpoint_every": "1e"}
    return network | given | others


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_broken_image_that_is_read_late_ends_a_run_before_its_first_step(tmp_path, name):
    write_photos(tmp_path / "photos")
    damage(tmp_path / "photos" / f"{name}3.jpg")
    given = settings_of(tmp_path / "photos", tmp_path / "run")
    for train in (
        lambda: finetune(FinetuneConfig(**given, select_by="last")),
        lambda: pretrain(PretrainConfig(**given, monitor_every=2, method="all")),
    ):
        with pytest.raises(InputError, match=f"--skip_bad_images leaves the others out. Received: .*{name}3.jpg"):
            train()
        assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_photos(folder / "photos")
    finetune(FinetuneConfig(**settings_of(folder / "photos", folder / "run")))
    return folder


@pytest.fixture
def stopped(trained, tmp_path):
    """The folder of photos, and a run on them that has done its last step and has no results."""
    shutil.copytree(trained, tmp_path / "copy")
    run = tmp_path / "copy" / "run"
    (run / "summary.json").unlink()
    return tmp_path / "copy" / "photos", run


@pytest.mark.slow
def test_images_may_be_left_out_of_a_run_that_stopped_at_one_and_no_step_is_lost(stopped):
    photos, run = stopped
    damage(photos / "test2.jpg")
    with pytest.raises(InputError, match=r"--skip_bad_images leaves the others out. Received: .*test2.jpg"):
        finetune(FinetuneConfig(**settings_of(photos, run)))
    log = (run / "metrics.jsonl").read_text()
    summary = finetune(FinetuneConfig(**settings_of(photos, run, skip_bad_images=True)))
    assert summary["split_sizes"] == SIZES | {"test": SIZES["test"] - 1}
    assert (run / "metrics.jsonl").read_text() == log
    assert [json.loads(line)["epoch"] for line in log.splitlines()] == [1, 2]
    # From here on the run is one that leaves images out.
    assert read_flags(run / "flags.txt")["skip_bad_images"] == "true"
    with pytest.raises(InputError, match=r"other settings.*--skip_bad_images: true there, false here"):
        finetune(FinetuneConfig(**settings_of(photos, run)))


@pytest.mark.parametrize("name", ["train", "validation"])
def test_what_a_run_has_learnt_from_is_not_left_out_later(stopped, name):
    photos, run = stopped
    damage(photos / f"{name}2.jpg")
    flags = (run / "flags.txt").read_text()
    with pytest.raises(InputError, match=rf"can all be read; .* Received: .*{name}2.jpg .* in {name}") as raised:
        finetune(FinetuneConfig(**settings_of(photos, run, skip_bad_images=True)))
    assert "\n" not in str(raised.value)
    assert (run / "flags.txt").read_text() == flags and not (run / "bad_images.txt").exists()


@pytest.mark.slow
def test_a_run_without_a_checkpoint_may_leave_out_anything(stopped):
    photos, run = stopped
    damage(photos / "train2.jpg")
    for path in pathlib.Path(run / "checkpoints").iterdir():
        path.unlink()
    summary = finetune(FinetuneConfig(**settings_of(photos, run, skip_bad_images=True)))
    assert summary["split_sizes"] == SIZES | {"train": SIZES["train"] - 1}
