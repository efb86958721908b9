"""Real photographs, from the folder to the served model, by the real commands: one's own, as the README says, and COCO."""

import json
import re
import shlex
import shutil

import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from tests.helpers.binaries import REPOSITORY
from tests.helpers.forking import forked_binary, run_forked

SIZES = {"train": 12, "validation": 4, "test": 4}
SMALL = ("--backbone=resnet8", "--image_size=32", "--epochs=2", "--batch_size=4")


@pytest.fixture(scope="module")
def photographs(shared_data, tmp_path_factory):
    """Two folders of 20 photos, half of them in a subfolder, with the same labels in either layout of the table."""
    coco = load_dataset("coco", data_dir=str(shared_data / "coco"))
    labels = coco.splits["train"].labels
    common = np.argsort(-labels.sum(0, dtype=np.int64), kind="stable")[:3]
    # Photos of every label, and one without any of the three.
    carried = labels[:, common].sum(1)
    rows = [*np.flatnonzero(carried > 0)[:19], *np.flatnonzero(carried == 0)[:1]]
    names = [coco.label_names[column] for column in common]
    splits = [split for split, count in SIZES.items() for _ in range(count)]
    folders = {layout: tmp_path_factory.mktemp(layout) for layout in ("lists", "columns")}
    tables = {"lists": ["file,labels,split"], "columns": [f"file,{','.join(names)},split"]}
    for number, (row, split) in enumerate(zip(rows, splits, strict=True)):
        name = f"trip/{number}.jpg" if number % 2 else f"{number}.jpg"
        present = labels[row][common]
        for folder in folders.values():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(coco.splits["train"].inputs.paths[row], folder / name)
        carried_names = ";".join(label for label, here in zip(names, present, strict=True) if here)
        tables["lists"].append(f"{name},{carried_names},{split}")
        tables["columns"].append(f"{name},{','.join(map(str, present))},{split}")
    for layout, lines in tables.items():
        (folders[layout] / "labels.csv").write_text("\n".join(lines) + "\n")
    return folders


def commands_of_readme(data_dir, runs):
    """The commands of the README's section on one's own photos, with real folders in them."""
    section = (REPOSITORY / "README.md").read_text().split("## Your photos")[1].split("## ")[0].replace("\\\n", " ")
    lines = re.findall(r"^python (-m mulsupcon_tf\.\w+ .*)$", section, re.MULTILINE)
    assert [line.split()[1] for line in lines] == [f"mulsupcon_tf.{name}" for name in ("finetune", "evaluate")]
    return [with_folders(line, data_dir, runs) for line in lines]


def with_folders(line, data_dir, runs):
    """The arguments of a command, `-m mulsupcon_tf.NAME ...`, without the `-m`."""
    return shlex.split(line.replace("=DIR", f"={data_dir}").replace("=runs/", f"={runs}/"))[1:]


def run(line):
    done = run_forked(*line)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def own_run(photographs, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    finetune, evaluate = commands_of_readme(photographs["lists"], runs)
    return runs, run([*finetune, *SMALL]), run(evaluate)


def test_own_photos_are_trained_on_by_the_commands_of_the_readme(own_run, photographs):
    runs, finetuned, evaluated = own_run
    assert "mAP" in finetuned.stdout and "mAP" in evaluated.stdout
    summary = json.loads((runs / "photos" / "summary.json").read_text())
    names = (photographs["columns"] / "labels.csv").read_text().splitlines()[0].split(",")[1:-1]
    assert sorted(summary["label_names"]) == sorted(names)
    assert set(summary["test"]) == {"mAP", "precision_at_1", "macro_f1", "micro_f1", "hamming_accuracy", "example_f1"}


@pytest.fixture(scope="module")
def with_a_cut_photo(photographs, tmp_path_factory):
    """The folder, and the photo."""
    folder = shutil.copytree(photographs["columns"], tmp_path_factory.mktemp("cut") / "photos")
    cut = folder / "trip" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:2000])
    return folder, cut


@pytest.mark.slow
def test_a_pretraining_before_it_runs_by_the_first_lines_of_the_flag_files_and_leaves_a_cut_photo_out_when_asked(
    with_a_cut_photo, tmp_path
):
    folder, _ = with_a_cut_photo
    for phase, further in (("pretrain", ["--queue_size=8"]), ("finetune", [])):
        first = (REPOSITORY / "flags" / f"csv_{phase}.flags").read_text().splitlines()[0]
        line = with_folders(first.removeprefix("# python "), folder, tmp_path)
        done = run([*line, *SMALL, *further, "--skip_bad_images"])
    assert "mAP" in done.stdout
    pretraining = (tmp_path / "photos_pretrain" / "metrics.jsonl").read_text().splitlines()
    assert "knn_mAP" in json.loads(pretraining[-1])
    assert "photos_pretrain" in (tmp_path / "photos" / "flags.txt").read_text()
    for name in ("photos_pretrain", "photos"):
        assert (tmp_path / name / "bad_images.txt").read_text().startswith("trip/1.jpg\t")


def test_both_layouts_of_the_table_are_the_same_data(photographs):
    lists, columns = (load_dataset("csv", data_dir=str(photographs[layout])) for layout in ("lists", "columns"))
    order = [columns.label_names.index(name) for name in lists.label_names]
    for split, count in SIZES.items():
        assert len(lists.splits[split]) == count
        np.testing.assert_array_equal(lists.splits[split].labels, columns.splits[split].labels[:, order])


def test_the_served_model_labels_photos_by_name(own_run, photographs):
    runs, _, _ = own_run
    photos = [photographs["lists"] / "0.jpg", photographs["lists"] / "trip" / "1.jpg"]
    done = forked_binary("predict", *photos, saved_model=runs / "photos" / "saved_model")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["file"] for record in records] == [str(photo) for photo in photos]
    summary = json.loads((runs / "photos" / "summary.json").read_text())
    for record in records:
        assert set(record["probabilities"]) == set(summary["label_names"])
        assert all(0 <= value <= 1 for value in record["probabilities"].values())


@pytest.mark.slow
def test_a_cut_photo_stops_the_run_by_name(with_a_cut_photo, tmp_path):
    folder, cut = with_a_cut_photo
    settings = {"dataset": "csv", "data_dir": folder, "workdir": tmp_path / "run", "max_steps": 3}
    done = forked_binary("pretrain", *SMALL, "--queue_size=8", "--backbone=resnet8", **settings)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]  # above it stands what was reported of the dataset
    assert last.startswith("error: each image must be a whole JPEG")
    assert str(cut) in last
    assert "--skip_bad_images" in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_coco_from_annotations_to_predictions(shared_data, tmp_path):
    """256 real images, two of them without a label, some gray: resnet18 at 64 pixels through all five commands."""
    coco = shared_data / "coco"
    data = {"dataset": "coco", "data_dir": coco}
    gray = [path for path in sorted((coco / "train2017").iterdir()) if PIL.Image.open(path).mode == "L"]
    assert gray
    unlabelled = sum(
        int((~split.labels.any(1)).sum()) for split in load_dataset("coco", data_dir=str(coco)).splits.values()
    )
    assert unlabelled >= 2
    small = {"epochs": 3, "batch_size": 32, "image_size": 64}
    done = forked_binary(
        "pretrain", **data, **small, backbone="resnet18", queue_size=128, workdir=tmp_path / "a", monitor_every=1
    )
    assert done.returncode == 0, done.stderr
    assert "samples without any label" in done.stderr
    epochs = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [epoch["queue_fill"] for epoch in epochs] == [0.75, 1.0, 1.0]
    assert all("knn_mAP" in epoch for epoch in epochs)
    done = forked_binary("finetune", **data, **small, pretrained=tmp_path / "a", workdir=tmp_path / "b")
    assert done.returncode == 0, done.stderr
    table = done.stdout
    done = forked_binary("evaluate", workdir=tmp_path / "b", split="test")
    assert done.returncode == 0, done.stderr
    assert done.stdout == table
    done = forked_binary("export", workdir=tmp_path / "b", output=tmp_path / "model")
    assert done.returncode == 0, done.stderr
    done = forked_binary(
        "predict", *gray[:1], *sorted((coco / "val2017").iterdir())[:3], saved_model=tmp_path / "model"
    )
    assert len(done.stdout.splitlines()) == 4, done.stderr
