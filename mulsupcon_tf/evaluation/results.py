"""From predicted probabilities to results: thresholds, the six metrics, the detailed report, the table that is printed.

A label is predicted when its probability is strictly above the threshold, both in float32. Thresholds are chosen on validation;
MulSupCon's protocol, which chooses them on the test labels themselves, is available and marked as optimistic.
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mulsupcon_tf.evaluation import calibration, metrics
from mulsupcon_tf.evaluation.label_thresholds import choose_label_thresholds
from mulsupcon_tf.evaluation.resampling import Chance, bootstrap_intervals, chance_results
from mulsupcon_tf.evaluation.thresholds import (
    PAPER_THRESHOLD_GRID,
    THRESHOLD_GRID,
    THRESHOLDED_METRICS,
    Labelled,
    Thresholds,
    above,
    check_probabilities,
    choose_thresholds,
    parse_threshold,
    threshold_text,
)
from mulsupcon_tf.utils.errors import InputError

METRIC_NAMES = ("mAP", "precision_at_1", "macro_f1", "micro_f1", "hamming_accuracy", "example_f1")
LITERATURE_THRESHOLD = 0.5

_RESULT_KEYS = {"train": "train", "validation": "val", "test": "test"}


def evaluate_predictions(labels: np.ndarray, probabilities: np.ndarray, thresholds: Thresholds) -> dict[str, float]:
    """Computes the six metrics of `METRIC_NAMES`, each in [0, 1].

    Args:
        labels: `[N, C]`, 0 or 1.
        probabilities: `[N, C]` in [0, 1].
        thresholds: for each thresholded metric one, as `choose_thresholds` returns them, or C, one a label.

    Raises:
        InputError: if the tables do not fit each other, a probability is not in [0, 1], a threshold is missing, or no
            sample has a label.
    """
    _, probabilities = check_probabilities(labels, probabilities)
    missing = [name for name in THRESHOLDED_METRICS if name not in thresholds]
    if missing:
        raise InputError(f"thresholds must name {', '.join(THRESHOLDED_METRICS)}. Received: none for {missing[0]}")
    return {
        "mAP": metrics.mean_average_precision(labels, probabilities),
        "precision_at_1": metrics.precision_at_1(labels, probabilities),
        **{
            name: metric(labels, above(probabilities, thresholds[name])) for name, metric in THRESHOLDED_METRICS.items()
        },
    }


def detailed_report(
    labels: np.ndarray, probabilities: np.ndarray, train_frequencies: np.ndarray | None = None
) -> dict[str, Any]:
    """What stands behind the six metrics, ready for JSON.

    Args:
        labels: `[N, C]`, 0 or 1.
        probabilities: `[N, C]` in [0, 1].
        train_frequencies: `[C]`, how often each label occurs in the training split.

    Returns:
        "CP", "CR", "CF1", "OP", "OR", "OF1" (at threshold 0.5 whatever the policy, as the literature reports them),
        "average_precision" (a list of C, None for a label without a positive), "labels_without_positives" (their
        columns: mAP leaves them out), "samples_without_labels" (their number: precision@1 counts them as wrong),
        "calibration_error", "reliability" (the bins that it is made of, each [decisions, mean probability, share of them
        that have the label]), and with `train_frequencies` also "mAP_head", "mAP_medium" and "mAP_tail" (None where no
        label has a positive).

    Raises:
        InputError: if the tables do not fit each other or a probability is not in [0, 1].
    """
    present, probabilities = check_probabilities(labels, probabilities)
    precisions = metrics.average_precisions(labels, probabilities)
    report: dict[str, Any] = {
        **metrics.class_and_overall_f1(labels, above(probabilities, LITERATURE_THRESHOLD)),
        "average_precision": [_none_if_nan(value) for value in precisions.tolist()],
        "labels_without_positives": metrics.labels_without_positives(labels),
        "samples_without_labels": int(np.count_nonzero(~present.any(axis=1) & metrics.known_of(labels).any(axis=1))),
    }
    bins = calibration.reliability(labels, probabilities)
    report |= {"calibration_error": calibration.calibration_error(bins), "reliability": [list(each) for each in bins]}
    if train_frequencies is not None:
        groups = metrics.grouped_average_precision(labels, probabilities, train_frequencies)
        report.update({f"mAP_{name}": _none_if_nan(value) for name, value in groups.items()})
    return report


def _none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def evaluate_splits(
    splits: Mapping[str, Labelled], threshold: str = "validation", train_frequencies: np.ndarray | None = None
) -> dict[str, Any]:
    """Results of a model on its splits under one threshold policy, ready for JSON.

    Args:
        splits: maps "validation", "test" or "train" to labels (0, 1, or NaN where unknown) and probabilities in [0, 1], both
            `[N, C]` with one C.
        threshold: the value of `--threshold`, see `parse_threshold`.
        train_frequencies: `[C]`, how often each label occurs in the training split.

    Returns:
        One entry of six metrics per split, the validation split's named "val"; "thresholds", the ones used on all
        splits; "threshold_policy": "validation", "per_label", "paper" or the number as text; "optimistic": True when thresholds
        were chosen on the test labels, so that test results flatter; "details": a `detailed_report` per split, under
        the same names; but for validation with "intervals", `bootstrap_intervals`, and "chance", `chance_results` as [mean,
        deviation].

    Raises:
        InputError: for a bad `threshold`, an unknown or a missing split, and bad tables.
    """
    policy = parse_threshold(threshold)
    if not splits or not splits.keys() <= _RESULT_KEYS.keys():
        raise InputError(f"splits must be among {', '.join(_RESULT_KEYS)}. Received: {', '.join(splits) or 'none'}")
    if isinstance(policy, float):
        thresholds: Thresholds = dict.fromkeys(THRESHOLDED_METRICS, policy)
    else:
        source, grid = ("test", PAPER_THRESHOLD_GRID) if policy == "paper" else ("validation", THRESHOLD_GRID)
        if source not in splits:
            raise InputError(f"threshold={policy} needs the {source} split. Received: {', '.join(splits)}")
        choose = choose_label_thresholds if policy == "per_label" else choose_thresholds
        thresholds = choose(*splits[source], grid)
    shapes = {name: np.shape(labels) for name, (labels, _) in splits.items()}
    if len({shape[1:] for shape in shapes.values()}) > 1:
        received = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"splits must have the same labels. Received: labels in {received}")
    results: dict[str, Any] = {}
    details = {}
    for name, (labels, probabilities) in splits.items():
        results[_RESULT_KEYS[name]] = evaluate_predictions(labels, probabilities, thresholds)
        details[_RESULT_KEYS[name]] = detailed_report(labels, probabilities, train_frequencies)
        if name != "validation":  # of which the thresholds know something
            details[_RESULT_KEYS[name]]["intervals"] = bootstrap_intervals(labels, probabilities, thresholds)
            chance = chance_results(
                labels, probabilities, functools.partial(evaluate_predictions, thresholds=thresholds)
            )
            details[_RESULT_KEYS[name]]["chance"] = {metric: list(found) for metric, found in chance.items()}
    return {
        **results,
        "thresholds": thresholds,
        "threshold_policy": f"{policy:g}" if isinstance(policy, float) else policy,
        "optimistic": policy == "paper",
        "details": details,
    }


def chance_sentence(values: Mapping[str, float], chance: Mapping[str, Any]) -> str:
    """Says which metrics cannot be distinguished from random; "" where all can.

    Args:
        values: by metric.
        chance: [mean, deviation] by metric, of the same predictions dealt out to the samples at random.
    """
    covered = [name for name, found in chance.items() if Chance(*found).covers(values[name])]
    if not covered:
        return ""
    return f"cannot be distinguished from random (the same predictions for other samples): {', '.join(covered)}"


def format_results_table(results: Mapping[str, Any]) -> str:
    """Lays out the six metrics of each split in percent, one metric a line, for the terminal.

    Args:
        results: as `evaluate_splits` returns them or a summary file repeats them.

    Returns:
        Lines without a trailing newline. Where thresholds were chosen on test, the test numbers that depend on them
        carry an asterisk and the last line says that they are optimistic.
    """
    splits = [name for name in _RESULT_KEYS.values() if name in results]
    thresholds = results["thresholds"]
    # Of train too, which stands before the validation that only gave the thresholds.
    judged = next((name for name in reversed(splits) if "intervals" in results["details"][name]), splits[-1])
    intervals, chance = (results["details"][judged].get(name) for name in ("intervals", "chance"))
    head = "metric (%)      " + "".join(f"{name:>8} " for name in splits) + "  threshold"
    if intervals:  # not in a summary that is older than they are
        head += f"{f'95% of {judged}':>16}"
    if chance:
        head += f"{'by chance':>14}"
    lines = [head]
    for name in METRIC_NAMES:
        cells = ""
        for split in splits:
            mark = "*" if results["optimistic"] and split == "test" and name in thresholds else " "
            cells += f"{100 * results[split][name]:8.1f}{mark}"
        cells += f"{threshold_text(thresholds[name]):>11}" if name in thresholds else f"{'-':>11}"
        if intervals:
            low, high = (100 * end for end in intervals[name])
            cells += f"{f'{low:.1f} to {high:.1f}':>16}"
        if chance:
            mean, deviation = (100 * number for number in chance[name])
            cells += f"{f'{mean:.1f} ± {deviation:.1f}':>14}"
        lines.append(f"{name:<16}{cells}")
    errors = {name: results["details"][name].get("calibration_error") for name in splits}
    if None not in errors.values():  # of a summary that is older than this
        lines.append("calibration err." + "".join(f"{100 * error:8.1f} " for error in errors.values()) + "          -")
    policy = results["threshold_policy"]
    if results["optimistic"]:
        lines.append("* OPTIMISTIC: thresholds were chosen on the test labels (threshold=paper, as MulSupCon did)")
    elif policy == "per_label":
        lines.append("thresholds were chosen on validation, one a label; with few positives near the common one")
    elif policy == "validation":
        lines.append("thresholds were chosen on validation")
    else:
        lines.append(f"the threshold was fixed at {policy}")
    lines += filter(None, [chance_sentence(results[judged], chance or {})])
    unlabelled = {name: results["details"][name]["samples_without_labels"] for name in splits}
    if any(unlabelled.values()):
        counts = ", ".join(f"{count} in {name}" for name, count in unlabelled.items() if count)
        lines.append(f"precision_at_1 counts samples without any label as wrong: {counts}")
    if "changed_data" in results:
        lines.append(f"the data have changed: {results['changed_data']}")
    return "\n".join(lines)
