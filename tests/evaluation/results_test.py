import json
import time

import numpy as np
import pytest
import sklearn.metrics

from mulsupcon_tf.evaluation import results as evaluation
from mulsupcon_tf.evaluation import thresholds as thresholds_module
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.naive_thresholds import TENTHS, TWENTIETHS, naive_thresholds, random_split, reference_scores


def test_evaluated_predictions_equal_scikit_learn():
    truth, probabilities = random_split(5)
    thresholds = {"macro_f1": 0.3, "micro_f1": 0.4, "hamming_accuracy": 0.55, "example_f1": 0.25}
    result = evaluation.evaluate_predictions(truth, probabilities, thresholds)
    assert list(result) == ["mAP", "precision_at_1", "macro_f1", "micro_f1", "hamming_accuracy", "example_f1"]
    assert all(type(value) is float for value in result.values())
    assert result["mAP"] == pytest.approx(sklearn.metrics.average_precision_score(truth, probabilities), abs=1e-12)
    top = probabilities.argmax(axis=1)
    assert result["precision_at_1"] == pytest.approx(np.mean([truth[i, j] for i, j in enumerate(top)]), abs=1e-12)
    for name, threshold in thresholds.items():
        expected = reference_scores(truth, (probabilities > threshold).astype(int))[name]
        assert result[name] == pytest.approx(expected, abs=1e-12)


def test_thresholds_chosen_on_validation_are_used_on_both_splits():
    splits = {"validation": random_split(1), "test": random_split(2)}
    result = evaluation.evaluate_splits(splits)
    thresholds = naive_thresholds(*splits["validation"], TWENTIETHS)
    assert result["thresholds"] == thresholds
    assert result["threshold_policy"] == "validation"
    assert result["optimistic"] is False
    for key, split in (("val", "validation"), ("test", "test")):
        truth, probabilities = splits[split]
        for name, threshold in thresholds.items():
            expected = reference_scores(truth, (probabilities > threshold).astype(int))[name]
            assert result[key][name] == pytest.approx(expected, abs=1e-12)


def test_the_test_labels_do_not_reach_the_thresholds_under_the_validation_policy():
    validation, (truth, probabilities) = random_split(1), random_split(2)
    first = evaluation.evaluate_splits({"validation": validation, "test": (truth, probabilities)})
    second = evaluation.evaluate_splits({"validation": validation, "test": (1 - truth, probabilities)})
    assert first["thresholds"] == second["thresholds"]


def test_the_paper_policy_is_the_best_on_test_and_says_so():
    splits = {"validation": random_split(1), "test": random_split(2)}
    result = evaluation.evaluate_splits(splits, "paper")
    truth, probabilities = splits["test"]
    assert result["thresholds"] == naive_thresholds(truth, probabilities, TENTHS)
    for name in result["thresholds"]:
        best = max(reference_scores(truth, (probabilities > t).astype(int))[name] for t in TENTHS)
        assert result["test"][name] == pytest.approx(best, abs=1e-11)
    assert result["optimistic"] is True
    assert result["threshold_policy"] == "paper"


def test_a_fixed_threshold_needs_no_other_split():
    result = evaluation.evaluate_splits({"test": random_split(2)}, "0.30")
    assert set(result["thresholds"].values()) == {0.3}
    assert result["threshold_policy"] == "0.3"
    assert set(result) == {"test", "thresholds", "threshold_policy", "optimistic", "details"}


def test_details_survive_json_and_count_what_is_left_out():
    truth, probabilities = random_split(3)
    truth[:, 4] = 0
    truth[:5] = 0
    result = evaluation.evaluate_splits({"validation": (truth, probabilities)}, train_frequencies=np.arange(6))
    details = json.loads(json.dumps(result, allow_nan=False))["details"]["val"]
    assert details["labels_without_positives"] == [4]
    assert details["samples_without_labels"] == np.sum(truth.sum(axis=1) == 0)
    kept = [0, 1, 2, 3, 5]
    expected = [sklearn.metrics.average_precision_score(truth[:, j], probabilities[:, j]) for j in kept]
    assert [details["average_precision"][j] for j in kept] == pytest.approx(expected, abs=1e-12)
    assert details["average_precision"][4] is None
    assert details["mAP_head"] == pytest.approx(expected[4], abs=1e-12)  # labels 5 and 4, the second undefined
    assert details["mAP_medium"] == pytest.approx((expected[2] + expected[3]) / 2, abs=1e-12)
    assert details["mAP_tail"] == pytest.approx((expected[0] + expected[1]) / 2, abs=1e-12)
    # The literature's F1s are taken at 0.5 although the policy chose other thresholds.
    at_half = reference_scores(truth, (probabilities > 0.5).astype(int))["micro_f1"]
    assert details["OF1"] == pytest.approx(at_half, abs=1e-12)
    assert result["thresholds"]["micro_f1"] != 0.5


def test_details_without_frequencies_have_no_groups():
    assert not [key for key in evaluation.detailed_report(*random_split(3)) if key.startswith("mAP_")]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.2, -0.1])
def test_what_is_no_probability_is_refused(bad):
    truth, probabilities = random_split(0)
    probabilities[7, 2] = bad
    thresholds = dict.fromkeys(thresholds_module.THRESHOLDED_METRICS, 0.5)
    with pytest.raises(InputError, match=r"^probabilities must .* Received: "):
        evaluation.evaluate_predictions(truth, probabilities, thresholds)
    with pytest.raises(InputError, match=r"^probabilities must .* Received: "):
        thresholds_module.choose_thresholds(truth, probabilities)
    with pytest.raises(InputError, match=r"^probabilities must .* Received: "):
        evaluation.evaluate_splits({"validation": (truth, probabilities)})


@pytest.mark.parametrize(
    ("splits", "threshold", "message"),
    [
        ({"test": random_split(0)}, "validation", "threshold=validation needs the validation split. Received: test"),
        ({"validation": random_split(0)}, "paper", "threshold=paper needs the test split. Received: validation"),
        ({"val": random_split(0)}, "0.5", "splits must be among train, validation, test. Received: val"),
        ({}, "0.5", "splits must be among train, validation, test. Received: none"),
        (
            {"validation": random_split(0), "test": random_split(0, labels=5)},
            "validation",
            "splits must have the same labels. Received: labels in validation (80, 6), test (80, 5)",
        ),
    ],
)
def test_splits_that_do_not_fit_the_policy_are_refused(splits, threshold, message):
    with pytest.raises(InputError) as error:
        evaluation.evaluate_splits(splits, threshold)
    assert str(error.value) == message


def test_a_missing_threshold_is_refused():
    with pytest.raises(InputError, match=r"thresholds must name .* Received: none for micro_f1"):
        evaluation.evaluate_predictions(*random_split(0), {"macro_f1": 0.5})


RESULTS = {
    "val": dict(zip(evaluation.METRIC_NAMES, [0.8, 0.7, 0.6, 0.5, 0.4, 1.0], strict=True)),
    "test": dict(zip(evaluation.METRIC_NAMES, [0.81, 0.7149, 0.6251, 0.5, 0.4, 0.3], strict=True)),
    "thresholds": {"macro_f1": 0.35, "micro_f1": 0.4, "hamming_accuracy": 0.5, "example_f1": 0.3},
    "threshold_policy": "validation",
    "optimistic": False,
    "details": {"val": {"samples_without_labels": 0}, "test": {"samples_without_labels": 0}},
}


def test_the_table_shows_percent_and_thresholds():
    rows = [line.split() for line in evaluation.format_results_table(RESULTS).splitlines()]
    assert rows[0] == ["metric", "(%)", "val", "test", "threshold"]
    assert rows[1] == ["mAP", "80.0", "81.0", "-"]
    assert rows[2] == ["precision_at_1", "70.0", "71.5", "-"]
    assert rows[3] == ["macro_f1", "60.0", "62.5", "0.35"]
    assert rows[6] == ["example_f1", "100.0", "30.0", "0.3"]
    assert " ".join(rows[7]) == "thresholds were chosen on validation"
    assert len(rows) == 8


def test_the_table_says_what_samples_without_labels_count_as():
    details = {"val": {"samples_without_labels": 0}, "test": {"samples_without_labels": 3}}
    lines = evaluation.format_results_table(RESULTS | {"details": details}).splitlines()
    assert lines[8:] == ["precision_at_1 counts samples without any label as wrong: 3 in test"]


def test_the_table_has_the_calibration_error_of_runs_that_know_it():
    details = {name: RESULTS["details"][name] | {"calibration_error": 0.0312} for name in ("val", "test")}
    lines = evaluation.format_results_table(RESULTS | {"details": details}).splitlines()
    assert lines[7].split() == ["calibration", "err.", "3.1", "3.1", "-"]
    assert len(lines[7]) == len(lines[6])
    assert len(evaluation.format_results_table(RESULTS).splitlines()) == len(lines) - 1


def test_the_table_has_intervals_and_chance_of_train_beside_the_validation_that_gave_the_thresholds():
    rng = np.random.default_rng(0)
    guessed = rng.integers(0, 2, (80, 6)), rng.random((80, 6))
    results = evaluation.evaluate_splits({"validation": random_split(0), "train": guessed})
    table = evaluation.format_results_table(results)
    head, *_ = table.splitlines()
    assert head.split() == ["metric", "(%)", "train", "val", "threshold", "95%", "of", "train", "by", "chance"]
    low, high = results["details"]["train"]["intervals"]["mAP"]
    assert f"{100 * low:.1f} to {100 * high:.1f}" in table.splitlines()[1]
    sentence = evaluation.chance_sentence(results["train"], results["details"]["train"]["chance"])
    assert sentence and sentence in table.splitlines()


def test_the_table_columns_line_up():
    lines = evaluation.format_results_table(RESULTS).splitlines()[:7]
    assert len({len(line) for line in lines}) == 1
    assert len({line.find(".") for line in lines[1:]}) == 1


def test_the_table_marks_only_optimistic_numbers():
    table = evaluation.format_results_table(RESULTS | {"threshold_policy": "paper", "optimistic": True})
    marked = [line.split() for line in table.splitlines()]
    assert marked[1] == ["mAP", "80.0", "81.0", "-"]
    assert marked[3] == ["macro_f1", "60.0", "62.5*", "0.35"]
    assert marked[6] == ["example_f1", "100.0", "30.0*", "0.3"]
    assert "OPTIMISTIC" in table.splitlines()[-1]
    assert "chosen on the test labels" in table.splitlines()[-1]
    assert "OPTIMISTIC" not in evaluation.format_results_table(RESULTS)


def test_the_table_of_one_split_under_a_fixed_threshold():
    results = {key: value for key, value in RESULTS.items() if key != "val"} | {"threshold_policy": "0.5"}
    lines = evaluation.format_results_table(results).splitlines()
    assert lines[0].split() == ["metric", "(%)", "test", "threshold"]
    assert lines[-1] == "the threshold was fixed at 0.5"


@pytest.mark.slow
def test_a_thousand_labels_take_seconds():
    rng = np.random.default_rng(0)
    truth = rng.random((3185, 983)) < 0.02
    truth[0] = True
    splits = {"validation": (truth, rng.random(truth.shape)), "test": (truth, rng.random(truth.shape))}
    start = time.process_time()
    evaluation.evaluate_splits(splits, train_frequencies=truth.sum(axis=0))
    assert time.process_time() - start < 12  # 6 s alone on one core, most of them to draw samples anew
