"""The results of an experiment as one tidy table, with what its figures need and the environment that it ran in."""

import csv
import dataclasses
import io
import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mulsupcon_tf.training.stored import EXPERIMENT, read_object
from mulsupcon_tf.utils.errors import InputError

CURVES = {"pretrain": "contrastive_loss", "finetune": "val_mAP", "probe": "val_mAP"}


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
        chosen: by dataset and line, "METHOD NAME=VALUE ..." with the settings of the grid, what `--choose` found for it: text by
            name.
        protocols: by dataset the ways in which its classifiers were chosen and judged, each once: "validation", whether it was
            kept apart, "selected_by" and "threshold_policy" as in their summaries, and "pretrained_on_validation" where the
            fine-tuning alone kept it apart.
        queries: by dataset and measure of a search, how many test samples it is over.
    """

    environment: Mapping[str, Any]
    settings: Mapping[str, str]
    grid: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    chosen: Mapping[str, Mapping[str, Mapping[str, str]]] = dataclasses.field(default_factory=dict)
    protocols: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)
    queries: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)

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
        names = ("labels", "curves", "chosen", "protocols", "queries")
        tail = {name: getattr(self, name) for name in names}
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
        head, tail = (content["environment"], content["settings"]), (content["labels"], content["curves"])
        of_newer = (content.get(name, {}) for name in ("chosen", "protocols", "queries"))
        return Results(*head, columns[3:-4], rows, *tail, *of_newer)
    except (OSError, ValueError) as error:
        raise InputError(f"results of an experiment must be readable. Received: {path} ({error})") from None


def datasets_of(results: Results) -> list[str]:
    """Names of the datasets, in order."""
    return list(dict.fromkeys(row["dataset"] for row in results.rows))


def require_joinable(parts: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> None:
    """Refuses results that cannot be shown as one.

    Args:
        parts: the datasets and the settings of each.

    Raises:
        InputError: two parts have a dataset in common, or were asked for different things.
    """
    datasets = [list(names) for names, _ in parts]
    every = list(itertools.chain.from_iterable(datasets))
    if len(every) != len(set(every)):
        raise InputError(f"Results that are shown together must be of different datasets. Received: {datasets}")
    asked = [{name: value for name, value in each.items() if name != "datasets" and value} for _, each in parts]
    other = next((each for each in asked if each != asked[-1]), None)
    if other is not None:
        raise InputError(
            f"Results that are shown together must be of the same settings. Received: {other} and {asked[-1]}"
        )


def join(parts: Sequence[Results]) -> Results:
    """Results of different datasets as one; what differs in their environments is named side by side.

    Raises:
        InputError: see `require_joinable`.
    """
    if len(parts) == 1:
        return parts[0]
    every = list(itertools.chain.from_iterable(map(datasets_of, parts)))
    require_joinable([(datasets_of(part), part.settings) for part in parts])
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
        {dataset: found for part in parts for dataset, found in part.chosen.items()},
        {dataset: found for part in parts for dataset, found in part.protocols.items()},
        {dataset: found for part in parts for dataset, found in part.queries.items()},
    )
