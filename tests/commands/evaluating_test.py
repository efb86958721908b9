"""The search and its table on a run made by hand; real runs are searched in finished_run_test, judged in finetuning_test."""

import dataclasses
import json

import numpy as np
import pytest

from mulsupcon_tf.commands import evaluating
from mulsupcon_tf.commands.evaluating import evaluate_retrieval, evaluate_run, format_retrieval_table, judge_search
from mulsupcon_tf.commands.finished_run import FinishedRun
from mulsupcon_tf.config.program_flags import EvaluateConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_vectors


def one_label_each(count):
    return np.eye(len(LABEL_NAMES), dtype=np.uint8)[np.arange(count) % len(LABEL_NAMES)]


@pytest.fixture(scope="module")
def run():
    """Its features are the labels themselves, its probabilities those of the next label."""
    splits = {name: Split(np.zeros((n, 3), np.float32), one_label_each(n)) for name, n in (("train", 40), ("test", 8))}
    dataset = MultiLabelDataset("npz", "vector", LABEL_NAMES, splits)

    def outputs(split):
        labels = splits[split].labels.astype(np.float32)
        return {"features": labels, "probabilities": np.roll(labels, 1, axis=1) if split == "test" else labels}

    return FinishedRun("finetune", None, dataset, "", outputs, lambda split: {})


def test_what_lies_together_by_its_labels_is_found_and_what_lies_apart_is_not(run):
    found = judge_search(run, "features", num_neighbours=10)
    assert (found["split"], found["gallery"], found["neighbours"]) == ("test", "train", 10)
    assert found["results"]["mAP"] == {"value": 1.0, "queries": 8}
    assert 0 < found["control"]["mAP"]["value"] < 0.9
    assert 0 < found["one_list"]["mAP"]["value"] < 0.9
    assert judge_search(run, "probabilities", num_neighbours=10)["results"]["mAP"]["value"] == 0
    assert not found["truth"] and "changed_data" not in found


def test_probabilities_of_one_label_are_not_searched(run, monkeypatch):
    splits = {name: Split(split.inputs, split.labels[:, :1]) for name, split in run.dataset.splits.items()}
    one = dataclasses.replace(run, dataset=MultiLabelDataset("npz", "vector", ("sea",), splits))
    monkeypatch.setattr(evaluating, "open_run", lambda *_, **__: one)
    with pytest.raises(InputError, match=r"of one all cosines are 1\. Received: run, of 'sea' alone$"):
        evaluate_retrieval(EvaluateConfig(workdir="run", retrieval=True, representation="probabilities"))


@pytest.mark.parametrize("name", ["summary.json", "flags.txt", "metrics.jsonl", "model.keras", "deep/../summary.json"])
@pytest.mark.parametrize("retrieval", [True, False], ids=["retrieval", "metrics"])
def test_a_file_of_the_run_is_not_written_over(run, tmp_path, monkeypatch, name, retrieval):
    (tmp_path / "deep").mkdir()
    (tmp_path / "summary.json").write_text("{}")
    monkeypatch.setattr(evaluating, "open_run", lambda *_, **__: run)
    monkeypatch.setattr(evaluating, "finetuning_flags", lambda _: {})
    monkeypatch.setattr(evaluating, "dataset_of_run", lambda *_, **__: (run.dataset, ""))
    output = tmp_path / name
    config = EvaluateConfig(workdir=str(tmp_path), retrieval=retrieval, output=str(output), representation=None)
    with pytest.raises(InputError, match=r"must not be a file that the run is made of\. Received: --output="):
        (evaluate_retrieval if retrieval else evaluate_run)(config)
    assert (tmp_path / "summary.json").read_text() == "{}"


def test_a_sample_does_not_find_itself(run):
    found = judge_search(run, "features", split="test", gallery="test", num_neighbours=1)
    assert found["results"]["mAP"] == {"value": 1.0, "queries": 8}  # the other one of its label is the nearest


def test_the_table_has_a_line_for_each_measure_and_says_what_was_searched():
    names = ("mAP", "ndcg_labels", "dominant", "ndcg_distributions")
    judged = {
        "split": "test",
        "gallery": "train",
        "neighbours": 5,
        "representation": "features",
        "truth": False,
        "changed_data": "other labels",
        "results": {name: {"value": 0.1234, "queries": 30} for name in names},
        "control": {name: {"value": None, "queries": 30} for name in names},
        "one_list": {name: {"value": 0.1, "queries": 30} for name in names},
    }
    head, *measures, searched, truth, changed = format_retrieval_table(judged).splitlines()
    assert len({len(line) for line in (head, *measures)}) == 1
    assert [line.split("  ")[0] for line in measures] == [
        "mAP@5 (shared labels)",
        "nDCG@5 of labels",
        "dominant@5",
        "nDCG@5 of true distributions",
    ]
    assert all(line.split()[-4:] == ["12.3", "-", "10.0", "30"] for line in measures)
    assert searched == "queries: test, gallery: train, by cosine of features"
    assert "dominant@5 is over the samples that have one label" in truth
    assert changed.endswith(": other labels")
    assert len(format_retrieval_table(judged | {"truth": True}).splitlines()) == 7
    judged["one_list"]["mAP"] = {"value": 0.1234, "queries": 30}
    assert (
        "no better than one list for all queries, so it says nothing here: mAP@5 (shared labels)"
        in format_retrieval_table(judged).splitlines()
    )


def test_a_run_and_a_threshold_are_asked_for_before_anything_is_read(tmp_path):
    for command in (evaluate_run, evaluate_retrieval):
        with pytest.raises(InputError, match=r"--workdir is required. Received: none"):
            command(EvaluateConfig())
    with pytest.raises(InputError, match="threshold must be validation"):
        evaluate_run(EvaluateConfig(workdir=str(tmp_path / "nowhere"), threshold="best"))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_thresholds_that_are_best_on_test_are_refused_for_another_split_before_anything_is_read(split, tmp_path):
    with pytest.raises(
        InputError, match=f"--threshold=paper .* needs --split=test; .*Received: --split={split}"
    ) as error:
        evaluate_run(EvaluateConfig(workdir=str(tmp_path / "nowhere"), threshold="paper", split=split))
    assert "\n" not in str(error.value)


def test_a_run_without_validation_needs_another_threshold(tmp_path):
    (tmp_path / "flags.txt").write_text("--dataset=digits\n--validation_fraction=0\n")
    (tmp_path / "summary.json").write_text(json.dumps({"phase": "finetune"}))
    with pytest.raises(InputError, match=r"--threshold=paper or a number. Received: --threshold=validation for "):
        evaluate_run(EvaluateConfig(workdir=str(tmp_path)))


def test_raw_images_are_not_searched(run):
    images = MultiLabelDataset("photos", "image", run.dataset.label_names, tiny_vectors().splits)
    with pytest.raises(
        InputError, match=r"--representation=raw needs a dataset of vectors. Received: --dataset=photos"
    ):
        judge_search(FinishedRun("finetune", None, images, "", run.outputs, run.represent), "raw")
