import json
import sys

import numpy as np
import pytest

from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.report import ReportConfig, main
from mulsupcon_tf.reporting import document
from mulsupcon_tf.reporting.document import write_report
from mulsupcon_tf.reporting.inputs import load_inputs
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.helpers.forking import run_forked
from tests.helpers.hand_made_runs import SIZES, write_run
from tests.helpers.html_page import Page
from tests.helpers.report_pages import OF_A_CLASSIFIER, report_of
from tests.helpers.scripts import assert_one_line, run_script
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz

# Runs made by hand


def test_vectors_have_no_pictures_and_names_stay_text(tmp_path):
    names = ("<i>slanted</i>", "$x_1$ & co", '"quoted"', "plain")
    dataset = tiny_vectors(sizes=SIZES)
    data = write_npz(type(dataset)("npz", "vector", names, dataset.splits), tmp_path / "data")
    runs = [
        write_run(tmp_path / f"{phase}-{method}", data_dir=data, phase=phase, method=method, seed=seed)
        for seed, (phase, method) in enumerate(
            [("finetune", "bce"), ("pretrain", "mulsupcon"), ("finetune", "mulsupcon")]
        )
    ]
    page = report_of(tmp_path, *runs)
    assert page.sections == OF_A_CLASSIFIER
    assert {row[0] for row in page.tables["labels-table"][2:]} == set(names)
    assert not [alt for alt, _ in page.images if "image" in alt]
    assert "i" not in page.tags
    assert page.tables["runs"][1][0] == "MulSupCon pretraining"
    assert "(6 passes over the training data against 3)" in page.text


def test_colour_images_with_truth_but_only_a_method_that_recovers_nothing(tmp_path):
    dataset = tiny_images(sizes=SIZES)
    data = write_npz(dataset, tmp_path / "data")
    run = write_run(tmp_path / "run", data_dir=data, phase="pretrain", method="mulsupcon")
    page = report_of(tmp_path, run)
    assert page.sections == ["opening", "gallery", "neighbours", "map", "training", "settings"]
    assert "recovered in pretraining" not in page.text and "true share" in page.text
    scenes = [(int(alt.split()[2]), pixels) for alt, pixels in page.images if " with the labels " in alt]
    assert len(scenes) == 4  # nothing to rank by: no best, no worst
    for row, pixels in scenes:
        np.testing.assert_array_equal(pixels, dataset.splits["test"].inputs[row])


def test_a_page_that_cannot_be_written_is_refused_before_it_is_made(tmp_path, monkeypatch):
    data = write_npz(tiny_vectors(sizes=SIZES), tmp_path / "data")
    run = write_run(tmp_path / "run", data_dir=data, phase="finetune", method="bce")
    monkeypatch.setattr(document, "build_document", lambda _: pytest.fail("made"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_report([run], tmp_path / "file" / "page.html")


def test_runs_that_kept_no_validation_are_shown_with_test_alone_and_called_optimistic(tmp_path):
    data = write_npz(tiny_vectors(sizes=SIZES), tmp_path / "data")
    run = write_run(tmp_path / "run", data_dir=data, phase="finetune", method="bce", validated=False)
    page = report_of(tmp_path, run)
    groups, head, *_ = page.tables["metrics"]
    assert groups == ["", "test", "threshold"] and head == ["metric (%)", "BCE only", "BCE only"]
    assert "OPTIMISTIC: thresholds were chosen on the test labels" in page.text
    assert "The weights of epoch 2 were kept, the last." in page.text


def test_photos_are_read_as_the_run_read_them(tmp_path):
    rows = [f'{number}.jpg,"{"moon" if number == 5 else "beach"},sea"' for number in range(40)]
    for number in range(40):
        write_photo(tmp_path / "photos" / f"{number}.jpg", number % 24)
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    options = {"dataset_name": "csv", "label_separator": ",", "min_label_count": 2}
    run = write_run(tmp_path / "run", data_dir=tmp_path / "photos", phase="finetune", method="bce", **options)
    assert load_inputs([run]).dataset.label_names == ("beach", "sea")


def test_images_that_a_run_left_out_are_left_out_of_its_report(tmp_path):
    rows = [f'{number}.jpg,"{"moon" if number % 5 else "beach"},sea"' for number in range(40)]
    for number in range(40):
        write_photo(tmp_path / "photos" / f"{number}.jpg", number % 24)
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    options = {"dataset_name": "csv", "label_separator": ","}
    names = load_dataset("csv", data_dir=str(tmp_path / "photos"), label_separator=",").splits["test"].inputs.names
    (tmp_path / "photos" / names[0]).write_bytes(b"")
    bad = {"bad_images": [names[0]]}
    run = write_run(tmp_path / "run", data_dir=tmp_path / "photos", phase="finetune", method="bce", **bad, **options)
    assert list(load_inputs([run]).dataset.splits["test"].inputs.names) == list(names[1:])


def test_a_page_about_samples_of_one_label_shows_no_order_of_labels(tmp_path):
    dataset = tiny_vectors(sizes=SIZES)
    splits = {}
    for name, split in dataset.splits.items():
        labels = np.eye(split.labels.shape[1], dtype=np.uint8)[np.arange(len(split)) % split.labels.shape[1]]
        splits[name] = Split(split.inputs, labels, labels.astype(np.float32))
    data = write_npz(type(dataset)("npz", "vector", dataset.label_names, splits), tmp_path / "data")
    page = report_of(tmp_path, write_run(tmp_path / "run", data_dir=data, phase="pretrain", method="cld"))
    _, *rows = page.tables["recovery-own"]
    assert [row[-1] for row in rows] == ["–"] * 3 and all(float(row[1]) >= 0 for row in rows)
    assert "there is no order to recover" in page.text


# Wrong input


@pytest.fixture
def vector_runs(tmp_path):
    data = write_npz(tiny_vectors(sizes=SIZES), tmp_path / "data")
    return {
        (phase, method): write_run(tmp_path / f"{phase}-{method}", data_dir=data, phase=phase, method=method)
        for phase, method in (("pretrain", "cld"), ("finetune", "cld"), ("finetune", "rld"), ("finetune", "bce"))
    }


def refused(tmp_path, match, *runs):
    output = tmp_path / "refused.html"
    with pytest.raises(InputError, match=match) as error:
        write_report(runs, output)
    assert "\n" not in str(error.value) and not output.exists()


def test_runs_that_do_not_belong_together_are_refused(vector_runs, tmp_path):
    bce = vector_runs["finetune", "bce"]
    refused(tmp_path, "one pretraining, one fine-tuning", bce, bce)
    refused(
        tmp_path, "with cld, a fine-tuning from rld", vector_runs["pretrain", "cld"], vector_runs["finetune", "rld"]
    )
    fewer = tiny_vectors(sizes=SIZES)
    splits = {name: Split(split.inputs, split.labels[:, :3]) for name, split in fewer.splits.items()}
    other = write_npz(type(fewer)("npz", "vector", fewer.label_names[:3], splits), tmp_path / "fewer")
    run = write_run(tmp_path / "other", data_dir=other, phase="finetune", method="cld")
    refused(tmp_path, "must share one dataset.*with 4 labels.*with 3", bce, run)


def flip_labels(folder):
    dataset = tiny_vectors(sizes=SIZES)
    flipped = {name: Split(split.inputs, split.labels[::-1]) for name, split in dataset.splits.items()}
    write_npz(type(dataset)("npz", "vector", dataset.label_names, flipped), folder)


def test_data_that_changed_since_the_run_are_refused_or_said_on_the_page(vector_runs, tmp_path, caplog):
    bce, output = vector_runs["finetune", "bce"], tmp_path / "allowed.html"
    flip_labels(tmp_path / "data")
    refused(tmp_path, "the data must be those that .*finetune-bce saw, or --allow_changed_data.*other labels$", bce)
    page = Page(write_report([bce], output, allow_changed_data=True).read_text(encoding="utf-8"))
    assert "The data have changed since the runs: other labels." in page.text
    assert "finetune-bce saw: other labels" in caplog.text
    write_npz(tiny_vectors(sizes=SIZES | {"test": 35}), tmp_path / "data")
    refused(tmp_path, "40/24/35 samples in train/validation/test, not 40/24/36$", bce)
    with pytest.raises(InputError, match=r"must be those of the run.*35 test samples.*saw 36"):  # outputs have 36 rows
        write_report([bce], output, allow_changed_data=True)


def test_data_that_moved_are_named(vector_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "build_document", lambda inputs: f"{len(inputs.dataset.splits['test'])} samples")
    bce = vector_runs["finetune", "bce"]
    moved = (tmp_path / "data").rename(tmp_path / "elsewhere")
    refused(tmp_path, "--data_dir must be an existing folder", bce)
    config = ReportConfig(output=str(tmp_path / "moved.html"), data_dir=str(moved))
    main(config, [str(bce)])
    assert (tmp_path / "moved.html").read_text(encoding="utf-8") == f"{SIZES['test']} samples"


def test_labels_in_other_columns_are_refused_even_when_changes_are_allowed(vector_runs, tmp_path):
    dataset = tiny_vectors(sizes=SIZES)
    splits = {name: Split(split.inputs, split.labels[:, ::-1]) for name, split in dataset.splits.items()}
    write_npz(type(dataset)("npz", "vector", dataset.label_names[::-1], splits), tmp_path / "data")
    with pytest.raises(InputError, match=r"in their order; .*Received: labels in another order"):
        write_report([vector_runs["finetune", "bce"]], tmp_path / "page.html", allow_changed_data=True)


def test_a_run_that_was_trained_on_changed_data_is_marked_on_the_page(vector_runs, tmp_path):
    bce = vector_runs["finetune", "bce"]
    summary = json.loads((bce / "summary.json").read_text())
    (bce / "summary.json").write_text(json.dumps(summary | {"changed_data": "since the pretraining: other labels"}))
    page = report_of(tmp_path, bce)
    assert "BCE only was trained on changed data: since the pretraining: other labels." in page.text


def test_data_that_changed_since_a_run_without_a_fingerprint_are_found_by_what_it_scored(tmp_path):
    data = write_npz(tiny_vectors(sizes=SIZES), tmp_path / "data")
    bce = write_run(tmp_path / "run", data_dir=data, phase="finetune", method="bce", fingerprint=False)
    write_report([bce], tmp_path / "fine.html")
    flip_labels(tmp_path / "data")
    refused(tmp_path, "must be those of the run.*another mAP", bce)


def test_changed_truth_is_refused(tmp_path):
    dataset = tiny_images(sizes=SIZES)
    data = write_npz(dataset, tmp_path / "data")
    run = write_run(tmp_path / "run", data_dir=data, phase="pretrain", method="cld", fingerprint=False)
    write_report([run], tmp_path / "fine.html")
    splits = {
        name: Split(split.inputs, split.labels, split.labels / split.labels.sum(1, keepdims=True, dtype=np.float32))
        for name, split in dataset.splits.items()
    }
    write_npz(type(dataset)("npz", "image", dataset.label_names, splits), tmp_path / "data")
    refused(tmp_path, "must be those of the run.*another KL", run)


def test_broken_run_directories_are_refused(vector_runs, tmp_path):
    run = vector_runs["finetune", "bce"]
    refused(tmp_path, "holds summary.json", tmp_path / "nowhere")
    whole = (run / "test_outputs.npz").read_bytes()
    (run / "test_outputs.npz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, "whole files", run)
    (run / "test_outputs.npz").unlink()
    refused(tmp_path, "holds test_outputs.npz", run)
    (run / "summary.json").write_text('{"phase": "finetune"')
    refused(tmp_path, "must hold the results of a run", run)
    with pytest.raises(InputError, match="must be a file"):
        write_report([vector_runs["pretrain", "cld"]], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"), [((), "needs run directories"), (("nowhere",), "holds summary.json. Received: nowhere")]
)
def test_the_command_answers_wrong_input_with_one_line(tmp_path, arguments, message):
    assert_one_line(run_script("mulsupcon_tf.report", *arguments, cwd=tmp_path), message)
    assert list(tmp_path.iterdir()) == []


def test_the_command_takes_directories_and_writes_where_it_is_asked_to(vector_runs, tmp_path):
    runs = (vector_runs["finetune", "bce"], vector_runs["pretrain", "cld"])
    done = run_forked("mulsupcon_tf.report", *runs, "--output=new/folder/page.html", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "report: new/folder/page.html"
    assert "results" in Page((tmp_path / "new" / "folder" / "page.html").read_text(encoding="utf-8")).sections


def test_matplotlib_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what an import of a missing package sees
    refused(tmp_path, "needs matplotlib: pip install", "nowhere")
