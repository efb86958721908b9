"""Reads the finished runs of an experiment into its table."""

import os
import pathlib
import platform
import statistics
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.evaluation.results import METRIC_NAMES, evaluate_predictions
from mulsupcon_tf.evaluation.retrieval import judge_one_list
from mulsupcon_tf.evaluation.thresholds import PAPER_THRESHOLD_GRID, choose_thresholds
from mulsupcon_tf.experiments.lines import title_of
from mulsupcon_tf.experiments.plan import Plan, Trial
from mulsupcon_tf.experiments.retrieval import ONE_LIST, retrieval_measures
from mulsupcon_tf.experiments.run_data import RunData
from mulsupcon_tf.experiments.runner import is_finished
from mulsupcon_tf.experiments.table import CURVES, Results
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError

_GROUPS = ("mAP_head", "mAP_medium", "mAP_tail")
_WATCHED = ("leak", "distribution_entropy", "similarity_loss")  # of the last epoch of a pretraining
_CURVE_POINTS = 60


def collect(plan: Plan, settings: Mapping[str, str]) -> Results:
    """Reads the finished runs of a plan.

    Raises:
        InputError: no run is finished, one is of other settings or saw other data, see `is_finished`, or a run directory
            is damaged.
    """
    data = RunData()
    one_lists: dict[int, dict[str, dict[str, Any]]] = {}  # by the data, which `RunData` keeps
    rows: list[dict[str, Any]] = []
    seen: set[pathlib.Path] = set()
    listed: set[tuple[str, int]] = set()
    labels: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    protocols: dict[str, list[Mapping[str, Any]]] = {}
    queries: dict[str, dict[str, int]] = {}
    for trial in plan.trials:
        for run in plan.runs(trial):
            if not is_finished(run, data):
                continue
            directory = RunDirectory(run.directory)
            summary = directory.read_summary()
            if run.phase != "retrieval":  # which comes after the training that it judges
                dataset = data.seen_by(run)
            head = {"dataset": trial.dataset, "method": trial.method, "seed": trial.seed, **dict(trial.settings)}
            if run.phase == "pretrain":
                measured = _pretraining(directory, summary)
            elif run.phase == "retrieval":
                measured = list(retrieval_measures(directory, run.representation))
                if measured and (trial.dataset, trial.seed) not in listed:
                    if id(dataset) not in one_lists:
                        one_lists[id(dataset)] = judge_one_list(dataset.splits["test"], dataset.splits["train"])
                    control = one_lists[id(dataset)]
                    known = {name: one["value"] for name, one in control.items() if one["value"] is not None}
                    measured += [(ONE_LIST, name, value) for name, value in known.items()]
                    queries[trial.dataset] = {name: one["queries"] for name, one in control.items()}
                    listed.add((trial.dataset, trial.seed))
            else:
                measured = _classifier(directory, summary, dataset)
            rows += [
                head | {"phase": run.phase, "protocol": protocol, "metric": metric, "value": round(value, 6)}
                for protocol, metric, value in measured
            ]
            if run.directory not in seen:  # else a pretraining that several trials share, or what judges it
                _add_curve(curves, trial, run.phase, directory)
            seen.add(run.directory)
            if run.binary == "finetune":
                _add_labels(labels, trial, run.phase, summary, dataset)
                seen_before = _pretraining_saw_validation(plan, trial)
                _add_protocol(protocols.setdefault(trial.dataset, []), summary, seen_before=seen_before)
    if not rows:
        raise InputError(f"An experiment must have a finished run. Received: none in {plan.root}")
    grid = list(dict.fromkeys(name for trial in plan.trials for name, _ in trial.settings))
    chosen: dict[str, dict[str, dict[str, str]]] = {}
    for trial in plan.trials:
        if trial.chosen:
            chosen.setdefault(trial.dataset, {})[title_of((trial.method, trial.settings))] = dict(trial.chosen)
    return Results(
        environment(seen),
        settings,
        grid,
        rows,
        _label_means(labels),
        _curve_means(curves),
        chosen,
        protocols,
        queries,
    )


def _classifier(
    directory: RunDirectory, summary: Mapping[str, Any], dataset: MultiLabelDataset
) -> Iterable[tuple[str, str, float]]:
    """Protocol, metric and value: as the run was judged, and with thresholds that are best on test."""
    test = dataset.splits["test"].labels
    try:
        with np.load(directory.test_outputs) as outputs:
            probabilities = outputs["probabilities"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"a run must hold its test outputs. Received: {directory.test_outputs} ({error})") from None
    if len(probabilities) != len(test):
        raise InputError(
            f"a run must have seen this test split, {len(test)} samples. "
            f"Received: {len(probabilities)} in {directory.test_outputs}"
        )
    groups = {name: summary["details"]["test"].get(name) for name in _GROUPS}
    protocols = {summary["threshold_policy"]: summary["test"]}
    if "paper" not in protocols:
        best = choose_thresholds(test, probabilities, PAPER_THRESHOLD_GRID)
        protocols["paper"] = evaluate_predictions(test, probabilities, best)
    for protocol, results in protocols.items():
        for name in METRIC_NAMES:
            yield protocol, name, results[name]
        yield from ((protocol, name, value) for name, value in groups.items() if value is not None)


def _pretraining(directory: RunDirectory, summary: Mapping[str, Any]) -> Iterable[tuple[str, str, float]]:
    """What is known of the label distributions."""
    last = (directory.epochs() or [{}])[-1]
    yield from (("", name, last[name]) for name in _WATCHED if name in last)
    for candidate, measures in summary.get("recovery", {}).items():
        yield from (("", f"{candidate}.{name}", value) for name, value in measures.items() if value is not None)


def _add_labels(
    labels: dict[str, Any], trial: Trial, phase: str, summary: Mapping[str, Any], dataset: MultiLabelDataset
) -> None:
    if trial.settings:  # one line a method would mix settings
        return
    of_dataset = labels.setdefault(
        trial.dataset, {"frequency": dataset.splits["train"].frequencies, "average_precision": {}}
    )
    precisions = summary["details"]["test"]["average_precision"]
    of_dataset["average_precision"].setdefault(f"{trial.method} {phase}", []).append(precisions)


def _pretraining_saw_validation(plan: Plan, trial: Trial) -> bool:
    first = next(plan.runs(trial))
    return first.phase == "pretrain" and first.settings().validation_fraction == 0


def _add_protocol(protocols: list[Mapping[str, Any]], summary: Mapping[str, Any], *, seen_before: bool) -> None:
    protocol = {"validation": "val" in summary} | {name: summary[name] for name in ("selected_by", "threshold_policy")}
    if seen_before and protocol["validation"]:
        protocol["pretrained_on_validation"] = True
    if protocol not in protocols:
        protocols.append(protocol)


def _label_means(labels: Mapping[str, Any]) -> dict[str, Any]:
    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(statistics.fmean(known), 4) if known else None

    return {
        dataset: {
            "frequency": [round(float(value), 5) for value in found["frequency"]],
            "average_precision": {
                name: [mean(values) for values in zip(*runs, strict=True)]
                for name, runs in found["average_precision"].items()
            },
        }
        for dataset, found in labels.items()
    }


def _add_curve(curves: dict[str, Any], trial: Trial, phase: str, directory: RunDirectory) -> None:
    if not trial.settings:
        values = {
            record["epoch"]: record[CURVES[phase]] / (record.get("positives") or 1.0)
            for record in directory.epochs()
            if CURVES[phase] in record
        }
        of_phase = curves.setdefault(trial.dataset, {}).setdefault(phase, {})
        of_phase.setdefault(trial.method, []).append(values)


def _curve_means(curves: Mapping[str, Any]) -> dict[str, Any]:
    """The mean over the runs that reached an epoch, at most `_CURVE_POINTS` of the epochs that all reached."""
    means: dict[str, Any] = {}
    for dataset, phases in curves.items():
        for phase, methods in phases.items():
            for method, runs in methods.items():
                epochs = sorted(set.intersection(*map(set, runs)))
                kept = (
                    [epochs[i] for i in sorted(set(np.linspace(0, len(epochs) - 1, _CURVE_POINTS).astype(int)))]
                    if epochs
                    else []
                )
                values = [round(statistics.fmean(run[epoch] for run in runs), 5) for epoch in kept]
                means.setdefault(dataset, {}).setdefault(phase, {})[method] = {"epoch": kept, "value": values}
    return means


def environment(directories: Iterable[pathlib.Path]) -> dict[str, Any]:
    """Processor, versions, number and hours of finished runs."""
    summaries = [RunDirectory(directory).read_summary() for directory in directories]
    versions = {
        name: ", ".join(sorted({summary["versions"][name] for summary in summaries}))
        for name in summaries[0]["versions"]
    }
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "runs": len(summaries),
        "hours": round(sum(summary["seconds"] for summary in summaries) / 3600, 2),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
