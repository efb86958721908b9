import dataclasses
import json
import math
import pathlib
import re

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mulsupcon_tf import demo
from mulsupcon_tf.datasets.images import digits
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.reporting.sentences import METRIC_TITLES
from mulsupcon_tf.training.run_directory import read_flags
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.forking import run_forked
from tests.helpers.html_page import Page
from tests.helpers.report_pages import ALL_SECTIONS, OF_A_CLASSIFIER, report_of
from tests.helpers.scripts import assert_one_line, run_script
from tests.helpers.small_demo import SCENES

CANDIDATES = {
    "recovered d": "recovered",
    "uniform y/|y|": "uniform",
    "smoothed labels": "smoothed",
}


@dataclasses.dataclass
class FinishedDemo:
    folder: pathlib.Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory):
    """On a tenth of the scenes, two steps a phase; in the tests of the file too, `digits` has that many."""
    folder = tmp_path_factory.mktemp("demo") / "run"
    done = run_forked("tests.helpers.small_demo", f"--workdir={folder}", "--max_steps=2")
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "SCENES", SCENES)
        yield FinishedDemo(folder, done.stdout, done.stderr)


def summaries(folder):
    return {name: json.loads((folder / name / "summary.json").read_text()) for name in ("pretrain", "finetune", "bce")}


def number(text):
    return float(text.replace("−", "-"))


def table_rows(stdout, head="test (%)"):
    """{title: its three numbers} of the printed table with that head."""
    pattern = r"^(\S+(?: \S+)*) {2,}(-?\d+\.\d) +(-?\d+\.\d) +([+−]?\d+\.\d)$"
    rows = re.findall(pattern, stdout.split(head)[1].split("\n\n")[0], flags=re.MULTILINE)
    return {title: [number(text) for text in numbers] for title, *numbers in rows}


def modification_times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_demo_runs_the_three_phases_on_equal_terms(finished_demo):
    runs = summaries(finished_demo.folder)
    assert [(run["phase"], run["method"], run["steps"]) for run in runs.values()] == [
        ("pretrain", "cld", 2),
        ("finetune", "cld", 2),
        ("finetune", "bce", 2),
    ]
    flags = {name: read_flags(finished_demo.folder / name / "flags.txt") for name in runs}
    epochs = {name: int(values["epochs"]) for name, values in flags.items()}
    assert epochs["bce"] == epochs["pretrain"] + epochs["finetune"]
    assert flags["finetune"]["pretrained"] == str(finished_demo.folder / "pretrain")
    assert "pretrained" not in flags["bce"]
    assert {values["seed"] for values in flags.values()} == {"0"}
    assert {values["batch_size"] for values in flags.values()} == {"128"}
    assert flags["finetune"]["head"] == "reuse"
    rates = {
        name: (values["learning_rate"], values["optimizer"], values["weight_decay"]) for name, values in flags.items()
    }
    assert len(set(rates.values())) == 1


def test_demo_prints_the_search_of_every_run(finished_demo):
    rows = table_rows(finished_demo.stdout, "search (%)")
    files = {
        "BCE only, features": "bce/retrieval.json",
        "BCE only, probabilities": "bce/retrieval_probabilities.json",
        "CLD pretraining, embedding": "pretrain/retrieval.json",
        "CLD + fine-tuning, features": "finetune/retrieval.json",
        "CLD + fine-tuning, probabilities": "finetune/retrieval_probabilities.json",
    }
    assert set(rows) == {*files, "the same for every scene, one list"}
    for title, file in files.items():
        judged = json.loads((finished_demo.folder / file).read_text())
        assert judged["representation"] == title.split(", ")[1] and judged["truth"]
        found = [100 * judged["results"][name]["value"] for name in ("mAP", "dominant", "ndcg_distributions")]
        assert rows[title] == pytest.approx(found, abs=0.0500001)
    one_list = json.loads((finished_demo.folder / "bce" / "retrieval.json").read_text())["one_list"]
    expected = [100 * one_list[name]["value"] for name in ("mAP", "dominant", "ndcg_distributions")]
    assert rows["the same for every scene, one list"] == pytest.approx(expected, abs=0.0500001)
    best = [
        max(rows[f"{run}, {name}"][2] for name in ("features", "probabilities"))
        for run in ("CLD + fine-tuning", "BCE only")
    ]
    (said,) = re.findall(r"nDCG@10 by areas (\d+\.\d) by \w+ against (\d+\.\d) by \w+\.", finished_demo.stdout)
    assert [float(text) for text in said] == best


def test_demo_prints_the_numbers_of_the_summaries(finished_demo):
    runs, rows = summaries(finished_demo.folder), table_rows(finished_demo.stdout)
    assert set(rows) == set(METRIC_TITLES.values()) and len(rows) == 6
    for key, title in METRIC_TITLES.items():
        ours, bce, difference = rows[title]
        assert ours == pytest.approx(100 * runs["finetune"]["test"][key], abs=0.0500001)
        assert bce == pytest.approx(100 * runs["bce"]["test"][key], abs=0.0500001)
        assert difference == pytest.approx(ours - bce, abs=1e-6)


def test_demo_says_what_it_does_and_where_the_report_is(finished_demo):
    lines = finished_demo.stdout.splitlines()
    assert [line[:3] for line in lines if re.match(r"\d/5", line)] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    report = finished_demo.folder / "report.html"
    assert lines[-1] == f"report: {report}" and report.stat().st_size > 100_000
    assert "finished before" not in finished_demo.stdout
    assert "Traceback" not in finished_demo.stderr and "cuda" not in finished_demo.stderr.lower()


def test_finished_demo_writes_nothing_and_says_so_while_a_lost_report_is_written_again(finished_demo, capsys):
    before = modification_times(finished_demo.folder)
    demo.run_demo(demo.DemoConfig(workdir=str(finished_demo.folder), max_steps=2))
    again = capsys.readouterr().out
    assert "finished before" in again and table_rows(again) == table_rows(finished_demo.stdout)
    assert modification_times(finished_demo.folder) == before

    report = finished_demo.folder / "report.html"
    first = report.read_text()
    report.unlink()
    demo.run_demo(demo.DemoConfig(workdir=str(finished_demo.folder), max_steps=2))
    assert "finished before" not in capsys.readouterr().out
    assert report.read_text() == first
    del before[report]
    after = modification_times(finished_demo.folder)
    del after[report]
    assert after == before


def test_other_settings_are_refused_and_leave_the_folder_alone(finished_demo):
    before = modification_times(finished_demo.folder)
    with pytest.raises(InputError, match="--seed: 0 there, 1 here"):
        demo.run_demo(demo.DemoConfig(workdir=str(finished_demo.folder), max_steps=2, seed=1))
    assert modification_times(finished_demo.folder) == before


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--workdir=occupied", "the file occupied"),
        ("--seed=-1", "--seed must be"),
        ("--max_steps=0", "--max_steps must be"),
    ],
)
def test_wrong_settings_get_one_line(tmp_path, flag, message):
    (tmp_path / "occupied").touch()
    assert_one_line(run_script("mulsupcon_tf.demo", flag, cwd=tmp_path), message)
    assert [path.name for path in tmp_path.iterdir()] == ["occupied"]


@pytest.mark.slow
def test_the_demo_runs_on_all_of_its_scenes(tmp_path):
    done = run_script("mulsupcon_tf.demo", f"--workdir={tmp_path / 'run'}", "--max_steps=2")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "cuda" not in done.stderr.lower()
    for summary in summaries(tmp_path / "run").values():
        assert summary["split_sizes"] == {"train": 6000, "validation": 1000, "test": 2000}


def test_help_names_every_flag():
    done = run_script("mulsupcon_tf.demo", "--help")
    assert done.returncode == 0
    assert all(text in done.stdout for text in ("--workdir", "--seed", "--max_steps", "continues"))


# The report that it writes


@pytest.fixture(scope="module")
def demo_page(finished_demo):
    return Page((finished_demo.folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def demo_summaries(finished_demo):
    return summaries(finished_demo.folder)


def shows(text, value, digits, scale=1.0):
    """Whether a cell shows a value, rounded to so many digits."""
    return len(text.split(".")[1]) == digits and abs(number(text) - scale * value) <= 0.5 * 10**-digits + 1e-9


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


@pytest.mark.slow
def test_a_pretraining_alone(finished_demo, tmp_path):
    page = report_of(tmp_path, finished_demo.folder / "pretrain")
    assert page.sections == ["opening", "recovery", "gallery", "neighbours", "map", "training", "settings"]
    assert "mAP on test" not in page.text
    judged = json.loads((finished_demo.folder / "pretrain" / "retrieval.json").read_text())
    for column, kind in enumerate(("results", "control")):
        cell = page.row("retrieval-pretrain", "mAP@10, shared labels")[column]
        assert shows(cell, judged[kind]["mAP"]["value"], 1, scale=100)


@pytest.mark.slow
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
