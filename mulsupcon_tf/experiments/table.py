"""The results of an experiment as one tidy table, with what its figures need and the environment that it ran in."""

import csv
import dataclasses
import functools
import io
import itertools
import json
import os
import pathlib
import platform
import statistics
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.config.common_flags import reading_options_of
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.results import METRIC_NAMES, evaluate_splits
from mulsupcon_tf.experiments.plan import Plan, Trial
from mulsupcon_tf.experiments.retrieval import retrieval_measures
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.training.stored import EXPERIMENT, read_object
from mulsupcon_tf.utils.errors import InputError

CURVES = {"pretrain": "contrastive_loss", "finetune": "val_mAP", "probe": "val_mAP"}
_GROUPS = ("mAP_head", "mAP_medium", "mAP_tail")
_WATCHED = ("leak", "distribution_entropy", "similarity_loss")  # of the last epoch of a pretraining
_CURVE_POINTS = 60


@dataclasses.dataclass(frozen=True)
class Results:
    """What an experiment found.

    Attributes:
        environment: processor, versions, seconds of all runs together.
        settings: what the experiment was asked for, text by name.
        grid: names of the grid's settings, in order.
        rows: one dict a run, protocol and metric: "dataset", "method", "seed", the settings of the grid (absent where
            the method does not read them), "phase" (pretrain, retrieval, finetune or probe), "protocol" (how thresholds
            were chosen: validation or paper; of retrieval what was searched by; "" where there is neither), "metric" and
            "value", between 0 and 1 for the metrics.
        labels: by dataset "frequency" (share of the training samples, `[C]`) and "average_precision": by method and
            phase, as "METHOD PHASE", the mean over seeds on test, `[C]`, None where test has no positive.
        curves: by dataset, phase and method "epoch" and "value": the mean over seeds of what `CURVES` names; of a loss
            that is a sum over positives, divided by how many they are.
    """

    environment: Mapping[str, Any]
    settings: Mapping[str, str]
    grid: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns."""
        return ["dataset", "method", "seed", *self.grid, "phase", "protocol", "metric", "value"]

    def as_csv(self) -> str:
        """The rows as CSV with a header."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()

    def as_json(self) -> str:
        """Everything, rows as lists in the order of the columns, a row a line."""
        rows = ",\n".join(json.dumps([row.get(column) for column in self.columns]) for row in self.rows)
        head = {"environment": self.environment, "settings": self.settings, "columns": self.columns}
        tail = {"labels": self.labels, "curves": self.curves}
        return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n],\n{json.dumps(tail)[1:-1]}\n}}\n'


def read_results(path: pathlib.Path) -> Results:
    """Reads what `as_json` wrote.

    Raises:
        InputError: the file is not there or no such table.
    """
    try:
        content = read_object(path, EXPERIMENT)
        columns = content["columns"]
        rows = [
            {column: value for column, value in zip(columns, row, strict=True) if value is not None}
            for row in content["rows"]
        ]
        if not all(isinstance(row.get("value"), int | float) for row in rows):
            raise ValueError("a row has no value")
        return Results(
            content["environment"], content["settings"], columns[3:-4], rows, content["labels"], content["curves"]
        )
    except (OSError, ValueError) as error:
        raise InputError(f"results of an experiment must be readable. Received: {path} ({error})") from None


def join(parts: Sequence[Results]) -> Results:
    """Results of different datasets as one; what differs in their environments is named side by side.

    Raises:
        InputError: two parts have a dataset in common, or were asked for different things.
    """
    if len(parts) == 1:
        return parts[0]
    datasets = [list(dict.fromkeys(row["dataset"] for row in part.rows)) for part in parts]
    every = list(itertools.chain.from_iterable(datasets))
    if len(every) != len(set(every)):
        raise InputError(f"Results that are shown together must be of different datasets. Received: {datasets}")
    settings = [
        {name: value for name, value in part.settings.items() if name != "datasets" and value} for part in parts
    ]
    other = next((each for each in settings if each != settings[-1]), None)
    if other is not None:
        raise InputError(
            f"Results that are shown together must be of the same settings. Received: {other} and {settings[-1]}"
        )
    environments = [part.environment for part in parts]

    def side_by_side(values: Iterable[Any]) -> str:
        return " and ".join(dict.fromkeys(map(str, values)))

    versions = [environment["versions"] for environment in environments]
    environment = {
        name: side_by_side(each[name] for each in environments) for name in ("processor", "cores", "system")
    } | {
        "runs": sum(each["runs"] for each in environments),
        "hours": round(sum(each["hours"] for each in environments), 2),
        "versions": {name: side_by_side(each[name] for each in versions) for name in versions[0]},
    }
    return Results(
        environment,
        {**parts[-1].settings, "datasets": ",".join(every)},
        parts[-1].grid,
        [row for part in parts for row in part.rows],
        {dataset: found for part in parts for dataset, found in part.labels.items()},
        {dataset: found for part in parts for dataset, found in part.curves.items()},
    )


def collect(plan: Plan, settings: Mapping[str, str]) -> Results:
    """Reads the finished runs of a plan.

    Raises:
        InputError: no run is finished, or a run directory is damaged.
    """
    load = functools.cache(functools.partial(load_dataset, data_dir=plan.data_dir))
    rows: list[dict[str, Any]] = []
    seen: set[pathlib.Path] = set()
    labels: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for trial in plan.trials:
        for run in plan.runs(trial):
            directory = RunDirectory(run.directory)
            if not directory.finished:
                continue
            summary = directory.read_summary()
            load_data = functools.partial(load, trial.dataset, **reading_options_of(read_flags(directory.flags_file)))
            head = {"dataset": trial.dataset, "method": trial.method, "seed": trial.seed, **dict(trial.settings)}
            if run.phase == "pretrain":
                measured = _pretraining(directory, summary)
            elif run.phase == "retrieval":
                measured = retrieval_measures(directory, run.representation)
            else:
                measured = _classifier(directory, summary, load_data())
            rows += [
                head | {"phase": run.phase, "protocol": protocol, "metric": metric, "value": round(value, 6)}
                for protocol, metric, value in measured
            ]
            if run.directory not in seen:  # else a pretraining that several trials share, or what judges it
                _add_curve(curves, trial, run.phase, directory)
            seen.add(run.directory)
            if run.binary == "finetune":
                _add_labels(labels, trial, run.phase, summary, load_data())
    if not rows:
        raise InputError(f"An experiment must have a finished run. Received: none in {plan.root}")
    grid = list(dict.fromkeys(name for trial in plan.trials for name, _ in trial.settings))
    return Results(environment(seen), settings, grid, rows, _label_means(labels), _curve_means(curves))


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
    protocols.setdefault("paper", evaluate_splits({"test": (test, probabilities)}, "paper")["test"])
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
        "system": platform.platform(terse=True),
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
