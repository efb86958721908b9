"""The lines of a results table, a method and its settings each, and every line against its baseline."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.evaluation.thresholds import THRESHOLDED_METRICS
from mulsupcon_tf.experiments.paired_tests import PairedDifference, paired_difference
from mulsupcon_tf.experiments.plan import Baseline, settings_read_by
from mulsupcon_tf.experiments.retrieval import ONE_LIST, RAW, REPRESENTATIONS
from mulsupcon_tf.experiments.table import Results

BLIND_TITLES = {RAW: "raw vectors", ONE_LIST: "one list for all"}  # searches that no method has a part in

Line = tuple[str, tuple[tuple[str, str], ...]]  # a line of a table: method and settings


def lines_of(results: Results, dataset: str, phase: str) -> dict[Line, dict[tuple[str, str], dict[int, float]]]:
    """Values of one dataset and phase: by line, then by protocol and metric, then by seed.

    A setting that all lines share is not part of them. In retrieval what is searched by is: "bce, probabilities"; the lines
    that no method has a part in come last.
    """
    found: dict[Line, dict[tuple[str, str], dict[int, float]]] = {}
    varied = _varied(results, dataset, phase)
    for row in _rows_of(results, dataset, phase):
        settings = tuple((name, row[name]) for name in varied if row.get(name, "") != "")
        method, protocol = row["method"], row["protocol"]
        if protocol in BLIND_TITLES:
            method, protocol, settings = BLIND_TITLES[protocol], "", ()
        elif phase == "retrieval":
            method, protocol = f"{method}, {protocol}", ""
        line = found.setdefault((method, settings), {})
        line.setdefault((protocol, row["metric"]), {})[row["seed"]] = row["value"]
    return dict(sorted(found.items(), key=lambda item: item[0][0] in BLIND_TITLES.values()))


def _rows_of(results: Results, dataset: str, phase: str) -> list[Mapping[str, Any]]:
    return [row for row in results.rows if (row["dataset"], row["phase"]) == (dataset, phase)]


def _varied(results: Results, dataset: str, phase: str) -> list[str]:
    """Names of the settings in which the lines differ."""
    rows = [row for row in _rows_of(results, dataset, phase) if row["protocol"] not in BLIND_TITLES]
    return [name for name in results.grid if len({row.get(name, "") for row in rows}) > 1]


def shared_settings(results: Results, dataset: str) -> str:
    """The settings of the grid that all lines of a dataset have, `epochs=100`; "" where they share none."""
    rows = [row for row in results.rows if row["dataset"] == dataset and row["protocol"] not in BLIND_TITLES]
    values = {name: {row.get(name, "") for row in rows} for name in results.grid}
    return " ".join(f"{name}={value}" for name, found in values.items() if len(found) == 1 for value in found if value)


def title_of(line: Line) -> str:
    """How a line is called."""
    method, settings = line
    return " ".join([method, *(f"{name}={value}" for name, value in settings)])


def plain_method(line: Line) -> str:
    """The method of a line, of retrieval without what is searched by."""
    return line[0].partition(", ")[0]


def headline(results: Results, dataset: str, phase: str) -> str:
    """The metric that figures show: mAP; of a search, where mAP can be had blindly, nDCG, by true distributions if known."""
    if phase != "retrieval":
        return "mAP"
    known = {row["metric"] for row in _rows_of(results, dataset, phase)}
    return "ndcg_distributions" if "ndcg_distributions" in known else "ndcg_labels"


def compared_metrics(
    results: Results, dataset: str, phase: str, classification: Sequence[str] = METRIC_NAMES
) -> Sequence[str]:
    """The metrics whose differences are shown."""
    if phase != "retrieval":
        return classification
    return "mAP", headline(results, dataset, phase), "dominant"


def protocol_of(measured: Mapping[tuple[str, str], Any]) -> str:
    """The protocol by which a line is compared and drawn: as its runs were judged.

    Args:
        measured: of the line, by protocol and metric, see `lines_of`.
    """
    # Every classifier is judged by thresholds that are best on test too.
    return next((protocol for protocol, _ in measured if protocol != "paper"), "paper")


def differences(
    results: Results, dataset: str, phase: str, metric: str, baseline: Baseline
) -> dict[Line, PairedDifference]:
    """Every line against the line that differs from it by the baseline alone, over the seeds that both have.

    Lines without such a partner, and the baseline's own, are left out; so is, of a metric with thresholds, a line with those
    that are best on test beside one with others. In retrieval the partner is searched by the same representation, but `bce`, as
    a baseline, by whichever of its representations scores best.
    """
    scores, optimistic = {}, {}
    for line, measured in lines_of(results, dataset, phase).items():
        protocol = protocol_of(measured)
        if (protocol, metric) in measured:
            scores[line] = measured[protocol, metric]
            optimistic[line] = protocol == "paper" and metric in THRESHOLDED_METRICS
    varied = _varied(results, dataset, phase)
    found = {}
    for line, values in scores.items():
        partners = [
            partner
            for partner in _partners(line, varied, phase, baseline)
            if partner in scores and optimistic[partner] == optimistic[line]
        ]
        if not partners:
            continue
        partner = max(partners, key=lambda each: statistics.fmean(scores[each].values()))
        shared = sorted(set(values) & set(scores[partner]))
        if partner != line and shared:
            found[line] = paired_difference([values[s] for s in shared], [scores[partner][s] for s in shared])
    return found


def _partners(line: Line, varied: Sequence[str], phase: str, baseline: Baseline) -> list[Line]:
    """The lines that a line may be compared with."""
    changed: dict[str, Any] = {"method": plain_method(line), **dict(line[1]), **baseline}
    other = changed.pop("method")
    settings = settings_read_by(other, {name: changed[name] for name in varied if name in changed})
    if phase != "retrieval":
        return [(other, settings)]
    own = (line[0].partition(", ")[2],)
    names = REPRESENTATIONS["finetune"] if baseline.get("method") == "bce" else own
    return [(f"{other}, {name}", settings) for name in names]
