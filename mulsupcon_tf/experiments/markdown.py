"""Results as Markdown: mean and deviation under both protocols, and paired differences to a baseline."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.evaluation.thresholds import THRESHOLDED_METRICS
from mulsupcon_tf.experiments.paired_tests import PairedDifference, paired_difference, smallest_sign_flip_p
from mulsupcon_tf.experiments.plan import Baseline, settings_read_by
from mulsupcon_tf.experiments.retrieval import NEIGHBOURS
from mulsupcon_tf.experiments.table import Results

TITLES = {
    "mAP": "mAP", "precision_at_1": "P@1", "macro_f1": "macro-F1", "micro_f1": "micro-F1",
    "hamming_accuracy": "Hamming acc.", "example_f1": "example-F1",
}  # fmt: skip
RETRIEVAL_TITLES = {
    "mAP": f"mAP@{NEIGHBOURS}", "ndcg_labels": f"nDCG@{NEIGHBOURS} of labels", "dominant": f"dominant@{NEIGHBOURS}",
    "ndcg_distributions": f"nDCG@{NEIGHBOURS} of distributions",
}  # fmt: skip
RETRIEVAL_TEXT = (
    f"Each test sample looks for its {NEIGHBOURS} nearest in train, by cosine of the embedding. mAP: how early those come that share\n"
    "a label. dominant: how many have its dominant label; without true distributions, among the samples that have one label.\n"
    "nDCG: how near the ranking is to the best one, by what labels or true distributions have in common."
)
PHASES = {"finetune": "fine-tuned", "probe": "linear probe", "retrieval": "retrieval"}

Line = tuple[str, tuple[tuple[str, str], ...]]  # a line of a table: method and settings


def lines_of(results: Results, dataset: str, phase: str) -> dict[Line, dict[tuple[str, str], dict[int, float]]]:
    """Values of one dataset and phase: by line, then by protocol and metric, then by seed."""
    found: dict[Line, dict[tuple[str, str], dict[int, float]]] = {}
    for row in results.rows:
        if (row["dataset"], row["phase"]) == (dataset, phase):
            settings = tuple((name, row[name]) for name in results.grid if row.get(name, "") != "")
            line = found.setdefault((row["method"], settings), {})
            line.setdefault((row["protocol"], row["metric"]), {})[row["seed"]] = row["value"]
    return found


def datasets_of(results: Results) -> list[str]:
    """Names of the datasets, in order."""
    return list(dict.fromkeys(row["dataset"] for row in results.rows))


def headline(results: Results, dataset: str, phase: str) -> str:
    """The metric that figures show: mAP, or for retrieval the neighbours that share the dominant label, if truth knows it."""
    known = {row["metric"] for row in results.rows if (row["dataset"], row["phase"]) == (dataset, phase)}
    return "dominant" if "ndcg_distributions" in known else "mAP"


def compared_metrics(phase: str, classification: Sequence[str] = METRIC_NAMES) -> Sequence[str]:
    """The metrics whose differences are shown."""
    return ("mAP", "dominant") if phase == "retrieval" else classification


def protocol_of(phase: str) -> str:
    """The protocol whose numbers are compared and drawn: thresholds from validation, where a phase has thresholds."""
    return "validation" if phase in ("finetune", "probe") else ""


def metric_title(phase: str, metric: str) -> str:
    """How a metric is called."""
    return RETRIEVAL_TITLES[metric] if phase == "retrieval" else TITLES.get(metric, metric)


def title_of(line: Line) -> str:
    """How a line is called."""
    method, settings = line
    return " ".join([method, *(f"{name}={value}" for name, value in settings)])


def mean_and_deviation(values: Sequence[float], scale: float = 100) -> str:
    """Mean ± sample standard deviation, in percent; the mean alone for one value."""
    scaled = [scale * value for value in values]
    deviation = f" ± {statistics.stdev(scaled):.1f}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):.1f}{deviation}"


def results_table(
    results: Results, dataset: str, phase: str, protocols: Sequence[str] = ("validation", "paper")
) -> str:
    """One row a method and setting; thresholded metrics under the honest protocol and, starred, under the paper's.

    Args:
        results: of an experiment.
        dataset: one of its datasets.
        phase: one of `PHASES`.
        protocols: those whose columns are shown; retrieval has none.
    """
    lines = lines_of(results, dataset, phase)
    columns: list[tuple[str, str, str]] = []
    if phase == "retrieval":
        measured_anywhere = {metric for measured in lines.values() for _, metric in measured}
        columns = [("", name, title) for name, title in RETRIEVAL_TITLES.items() if name in measured_anywhere]
    else:
        for name in METRIC_NAMES:
            if "validation" in protocols:
                columns.append(("validation", name, TITLES[name]))
            if "paper" in protocols and name in THRESHOLDED_METRICS:
                columns.append(("paper", name, f"{TITLES[name]}*"))
    text = [f"| method | seeds | {' | '.join(title for _, _, title in columns)} |", "|---|---|" + "---|" * len(columns)]
    for line, measured in lines.items():
        cells = [_cell(measured.get((protocol, name), {})) for protocol, name, _ in columns]
        seeds = max((len(values) for values in measured.values()), default=0)
        text.append(f"| {title_of(line)} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(text)


def _cell(values: Mapping[int, float]) -> str:
    return mean_and_deviation(list(values.values())) if values else ""


def differences(
    results: Results, dataset: str, phase: str, metric: str, baseline: Baseline
) -> dict[Line, PairedDifference]:
    """Every line against the line that differs from it by the baseline alone, over the seeds that both have.

    Lines without such a partner, and the baseline's own, are left out.
    """
    lines = lines_of(results, dataset, phase)
    protocol = protocol_of(phase)
    found = {}
    for (method, settings), measured in lines.items():
        changed: dict[str, Any] = {"method": method, **dict(settings), **baseline}
        other = changed.pop("method")
        order = {name: changed[name] for name in results.grid if name in changed}
        partner = (other, settings_read_by(other, order))
        values, base = measured.get((protocol, metric)), lines.get(partner, {}).get((protocol, metric))
        shared = sorted(set(values or ()) & set(base or ()))
        if partner != (method, settings) and shared:
            assert values and base
            found[method, settings] = paired_difference([values[s] for s in shared], [base[s] for s in shared])
    return found


def differences_table(
    results: Results, dataset: str, phase: str, baseline: Baseline, metrics: Sequence[str] = METRIC_NAMES
) -> str:
    """One row a method, setting and metric, in points of percent; bold where the interval leaves out zero."""
    text = [
        "| method | metric | pairs | difference | 95% interval | p (t) | p (sign flip) |",
        "|---|---|---|---|---|---|---|",
    ]
    for metric in metrics:
        for line, difference in differences(results, dataset, phase, metric, baseline).items():
            text.append(
                f"| {title_of(line)} | {metric_title(phase, metric)} | {difference.pairs} | {_difference_cells(difference)} |"
            )
    return "\n".join(text)


def _points(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no negative zero


def _difference_cells(difference: PairedDifference) -> str:
    mean = _points(difference.mean)
    if difference.pairs == 1:
        return f"{mean} | | | ".replace("-", "−")
    text = f"{mean} ± {100 * difference.deviation:.1f}"
    text = f"**{text}**" if difference.clear else text
    interval = f"{_points(difference.low)} to {_points(difference.high)}"
    return f"{text} | {interval} | {_p(difference.t_p)} | {_p(difference.sign_flip_p)}".replace("-", "−")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def document(results: Results, baseline: Baseline) -> str:
    """All tables of an experiment."""
    text = [
        "Test metrics in %, mean ± sample standard deviation over seeds. Thresholds are chosen on validation; columns with"
    ]
    text += ["a star choose them on the test labels, as the paper did, and flatter."]
    name = " ".join(f"{key}={value}" for key, value in baseline.items())
    for dataset in datasets_of(results):
        for phase, title in PHASES.items():
            if not lines_of(results, dataset, phase):
                continue
            text += ["", f"## {dataset}, {title}", ""]
            text += [RETRIEVAL_TEXT, ""] if phase == "retrieval" else []
            text += [results_table(results, dataset, phase)]
            metrics = compared_metrics(phase)
            table = differences_table(results, dataset, phase, baseline, metrics)
            if table.count("\n") > 1:
                pairs = max(
                    difference.pairs
                    for metric in metrics
                    for difference in differences(results, dataset, phase, metric, baseline).values()
                )
                text += [
                    "",
                    f"Differences to {name}, paired by seed, in points; bold where the interval leaves out zero. The",
                ]
                text += [
                    f"sign-flip test of {pairs} pairs cannot give a p below {smallest_sign_flip_p(pairs):.4g}.",
                    "",
                    table,
                ]
    return "\n".join(text) + "\n"
