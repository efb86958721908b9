import json
import math
import sys

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.reporting.document import write_report
from mulsupcon_tf.reporting.inputs import load_inputs
from mulsupcon_tf.reporting.sentences import METRIC_TITLES
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.helpers.forking import run_forked
from tests.helpers.hand_made_runs import SIZES, write_run
from tests.helpers.html_page import Page
from tests.helpers.scripts import assert_one_line, run_script
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz

ALL_SECTIONS = [
    "opening",
    "results",
    "reliability",
    "recovery",
    "gallery",
    "neighbours",
    "map",
    "labels",
    "training",
    "settings",
]
OF_A_CLASSIFIER = [
    "opening",
    "results",
    "reliability",
    "gallery",
    "neighbours",
    "map",
    "labels",
    "training",
    "settings",
]
CANDIDATES = {
    "recovered d": "recovered",
    "uniform y/|y|": "uniform",
    "smoothed labels": "smoothed",
}


@pytest.fixture(scope="module")
def demo_page(finished_demo):
    return Page((finished_demo.folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def demo_summaries(finished_demo):
    return {
        name: json.loads((finished_demo.folder / name / "summary.json").read_text())
        for name in ("pretrain", "finetune", "bce")
    }


def number(text):
    return float(text.replace("−", "-"))


def shows(text, value, digits, scale=1.0):
    """Whether a cell shows a value, rounded to so many digits."""
    return len(text.split(".")[1]) == digits and abs(number(text) - scale * value) <= 0.5 * 10**-digits + 1e-9


def report_of(tmp_path, *runs):
    return Page(write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8"))


# The real runs


def test_page_needs_nothing_from_outside(demo_page):
    assert demo_page.addresses == []
    assert not {"script", "link", "iframe"} & set(demo_page.tags)


def test_page_has_every_section_once(demo_page):
    assert demo_page.sections == ALL_SECTIONS


def test_every_figure_says_what_is_seen_and_no_picture_is_blank(demo_page):
    assert demo_page.tags.count("figure") == demo_page.tags.count("figcaption") == len(demo_page.captions)
    assert all(caption.endswith(".") and len(caption) > 15 for caption in demo_page.captions)
    # Pretraining 7, classifiers 2 each, maps 2, labels 1, recovery 1, reliability 1; 12 cards of a scene and its bars; by two runs 5
    # scenes with 7 neighbours each.
    assert len(demo_page.images) == 16 + 24 + 80
    assert all(alt and pixels.std() > 5 for alt, pixels in demo_page.images)


def test_metrics_table_equals_the_summaries(demo_page, demo_summaries):
    ours, bce = demo_summaries["finetune"], demo_summaries["bce"]
    for key, title in METRIC_TITLES.items():
        cells = demo_page.row("metrics", title)
        expected = [(ours, "test"), (bce, "test"), None, (ours, "val"), (bce, "val")]
        for cell, source in zip(cells[:5], expected, strict=True):
            if source:
                assert shows(cell, source[0][source[1]][key], 1, scale=100)
        assert number(cells[2]) == pytest.approx(number(cells[0]) - number(cells[1]), abs=1e-9)
        for cell, run in zip(cells[5:], (ours, bce), strict=True):
            assert cell == "–" if key in ("mAP", "precision_at_1") else float(cell) == run["thresholds"][key]


def test_the_calibration_errors_are_those_of_the_summaries(demo_page, demo_summaries):
    (caption,) = (caption for caption in demo_page.captions if "Expected calibration error" in caption)
    for name in ("finetune", "bce"):
        summary = demo_summaries[name]
        assert f"{100 * summary['details']['test']['calibration_error']:.1f} % of " in caption
        assert f"divided by {summary['calibration']['temperature']:.2f}, as fits validation best" in caption


def test_recovery_tables_equal_the_summary(demo_page, demo_summaries):
    recovery = demo_summaries["pretrain"]["recovery"]
    keys = ("kl", "chebyshev", "cosine", "intersection")
    for title, name in CANDIDATES.items():
        own, everywhere = demo_page.row("recovery-own", title), demo_page.row("recovery-all", title)
        columns = [*(f"{key}_relevant" for key in keys), "pair_concordance"]
        assert all(shows(cell, recovery[name][key], 3) for cell, key in zip(own, columns, strict=True))
        assert all(shows(cell, recovery[name][key], 3) for cell, key in zip(everywhere, keys, strict=True))


def test_bold_is_the_better_number(demo_page):
    better = set()
    for title in METRIC_TITLES.values():
        ours, bce = map(number, demo_page.row("metrics", title)[:2])
        better |= {(title, 1)} if ours > bce else {(title, 2)} if bce > ours else set()
    assert demo_page.bold["metrics"] == better
    best = set()
    for column, choose in enumerate((min, min, max, max, max), start=1):
        values = {title: number(demo_page.row("recovery-own", title)[column - 1]) for title in CANDIDATES}
        best |= {(title, column) for title, value in values.items() if value == choose(values.values())}
    assert demo_page.bold["recovery-own"] == best


def test_labels_table_equals_summaries_and_data(demo_page, demo_summaries, finished_demo):
    train = load_dataset("digits", data_dir=None).splits["train"].labels.tolist()
    test = load_dataset("digits", data_dir=None).splits["test"].labels
    groups, head, *rows = demo_page.tables["labels-table"]
    titles = ["CLD + fine-tuning", "BCE only"]
    assert head == ["label", "in train (%)", *titles, "difference", *titles]
    assert groups == ["", "average precision", "F1"]
    decided = {}
    for run in ("finetune", "bce"):
        with np.load(finished_demo.folder / run / "test_outputs.npz") as file:
            decided[run] = file["probabilities"] > demo_summaries[run]["thresholds"]["macro_f1"]
    frequencies = []
    for name, frequency, *precisions, _, ours, bce in rows:
        label = int(name)
        frequencies.append(sum(row[label] for row in train) / len(train))
        assert shows(frequency, frequencies[-1], 1, scale=100)
        for cell, run in zip(precisions, ("finetune", "bce"), strict=True):
            assert shows(cell, demo_summaries[run]["details"]["test"]["average_precision"][label], 1, scale=100)
        for cell, run in ((ours, "finetune"), (bce, "bce")):
            assert shows(cell, f1_score(test[:, label], decided[run][:, label], zero_division=0), 1, scale=100)
    assert len(rows) == 10 and frequencies == sorted(frequencies, reverse=True)


def test_settings_equal_the_flag_files(demo_page, finished_demo):
    lines = (finished_demo.folder / "pretrain" / "flags.txt").read_text().splitlines()
    for name, value in (line.split("=", 1) for line in lines):
        if name not in ("--workdir", "--data_dir"):
            assert demo_page.row("flags", name)[0] == value
    assert demo_page.row("flags", "--select_by") == ["–", "mAP", "mAP"]
    assert [row[0] for row in demo_page.tables["runs"][1:]] == ["CLD pretraining", "CLD + fine-tuning", "BCE only"]


def test_scenes_are_the_test_images_and_groups_follow_the_error(demo_page, finished_demo):
    test = load_dataset("digits", data_dir=None).splits["test"]
    with np.load(finished_demo.folder / "pretrain" / "test_outputs.npz") as file:
        recovered = file["distribution"].astype(float)
    errors = []
    for truth, guess, labels in zip(test.distributions.astype(float), recovered, test.labels, strict=True):
        pairs = zip(truth / truth.sum(), guess / guess.sum(), strict=True)
        terms = [t * math.log(t / g) for t, g in pairs if t > 0]
        errors.append(sum(terms) if labels.sum() > 1 else math.nan)
    scenes = [(int(alt.split()[2]), pixels) for alt, pixels in demo_page.images if " with the labels " in alt]
    for row, pixels in scenes:
        np.testing.assert_array_equal(pixels, np.repeat(test.inputs[row], 3, axis=-1))
    shown = [row for row, _ in scenes]
    ranked = np.argsort(errors)[: np.count_nonzero(~np.isnan(errors))]
    assert shown[4:8] == ranked[:4].tolist() and shown[8:] == ranked[::-1][:4].tolist()
    for row in shown:
        words = ", ".join(str(label) for label in np.flatnonzero(test.labels[row]))
        error = "" if math.isnan(errors[row]) else f" KL(truth ‖ d) = {errors[row]:.3f}."
        assert f"Test image {row}: {words}.{error}" in demo_page.captions


def test_a_pretraining_alone(finished_demo, tmp_path):
    page = report_of(tmp_path, finished_demo.folder / "pretrain")
    assert page.sections == ["opening", "recovery", "gallery", "neighbours", "map", "training", "settings"]
    assert "mAP on test" not in page.text
    judged = json.loads((finished_demo.folder / "pretrain" / "retrieval.json").read_text())
    for column, kind in enumerate(("results", "control")):
        cell = page.row("retrieval-pretrain", "mAP@10, shared labels")[column]
        assert shows(cell, judged[kind]["mAP"]["value"], 1, scale=100)


def test_a_baseline_alone_ranks_scenes_by_cross_entropy(finished_demo, tmp_path):
    page = report_of(tmp_path, finished_demo.folder / "bce")
    assert page.sections == OF_A_CLASSIFIER
    labels = load_dataset("digits", data_dir=None).splits["test"].labels
    with np.load(finished_demo.folder / "bce" / "test_outputs.npz") as file:
        p = file["probabilities"].astype(float)
    errors = [
        -np.mean([math.log(q if y else 1 - q) for y, q in zip(*pair, strict=True)])
        for pair in zip(labels, p, strict=True)
    ]
    shown = [int(alt.split()[2]) for alt, _ in page.images if " with the labels " in alt]
    assert shown[4:8] == np.argsort(errors)[:4].tolist() and shown[8:] == np.argsort(errors)[::-1][:4].tolist()


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
