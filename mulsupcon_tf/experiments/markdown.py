"""Results as Markdown: mean and deviation under both protocols, and paired differences to a baseline."""

import itertools
import statistics
from collections.abc import Mapping, Sequence

from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.evaluation.thresholds import THRESHOLDED_METRICS
from mulsupcon_tf.experiments.lines import (
    compared_metrics,
    differences,
    lines_of,
    protocol_of,
    shared_settings,
    title_of,
)
from mulsupcon_tf.experiments.paired_tests import DRAWN_PATTERNS, EXACT_PAIRS, PairedDifference, smallest_sign_flip_p
from mulsupcon_tf.experiments.plan import Baseline, parse_grid
from mulsupcon_tf.experiments.retrieval import REPRESENTATIONS
from mulsupcon_tf.experiments.table import Results, datasets_of
from mulsupcon_tf.utils.choices import SEARCHED_NEIGHBOURS
from mulsupcon_tf.utils.wording import counted, points

TITLES = {
    "mAP": "mAP",
    "precision_at_1": "P@1",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "hamming_accuracy": "Hamming acc.",
    "example_f1": "example-F1",
}
RETRIEVAL_TITLES = {
    "mAP": f"mAP@{SEARCHED_NEIGHBOURS}",
    "ndcg_labels": f"nDCG@{SEARCHED_NEIGHBOURS} of labels",
    "dominant": f"dominant@{SEARCHED_NEIGHBOURS}",
    "ndcg_distributions": f"nDCG@{SEARCHED_NEIGHBOURS} of distributions",
}
_RETRIEVAL_TEXT = (
    f"Each test sample looks for its {SEARCHED_NEIGHBOURS} nearest in train, by cosine of what stands behind the method: the "
    "embedding of its\n"
    "pretraining, the features or the probabilities of its classifier. mAP: how early those come that share a label. dominant: how\n"
    "many have its dominant label; without true distributions, among the samples that have one label. nDCG: how near the ranking\n"
    "is to the best one, by what labels or true distributions have in common. One list for all: the same ten for every query, those\n"
    "that share a label with most; where it has the higher mAP, mAP says nothing of an embedding, and nDCG has to."
)
PHASES = {"finetune": "fine-tuned", "probe": "linear probe", "retrieval": "search"}
# What is known of the distributions that a pretraining learnt: title, scale and digits.
DISTRIBUTION_TITLES = {
    "leak": ("mass off the labels (%)", 100, 1),
    "distribution_entropy": ("entropy (nats)", 1, 2),
    "similarity_loss": ("G of an anchor", 1, 2),
    "recovered.kl_relevant": ("KL of the truth on own labels", 1, 3),
    "recovered.pair_concordance": ("pairs of labels in order (%)", 100, 1),
}
_STARRED = "Columns with a star choose thresholds on the test labels, as the paper did, and flatter."
HELD_OUT = f"validation is kept apart, and epoch and thresholds are chosen there. {_STARRED}"
PAPERS = (
    "OPTIMISTIC: no validation is kept apart, the last epoch is judged, and thresholds, in columns with a star, are those that "
    "are best on the test labels."
)


def protocol_text(results: Results, dataset: str) -> str:
    """How the classifiers of a dataset were chosen and judged; "" where it has none, or where an older table does not say."""
    texts = dict.fromkeys(itertools.starmap(_protocol_sentence, _ways(results, dataset)))
    return f"{'Runs were judged in different ways. ' if len(texts) > 1 else ''}{' '.join(texts)}"


def _ways(results: Results, dataset: str) -> list[tuple[bool, str, str, bool]]:
    """What `_protocol_sentence` takes, of each way in which classifiers were judged; of an older table what its rows tell."""
    if dataset in results.protocols:
        ways = results.protocols[dataset]
        return [
            (
                way["validation"],
                way["selected_by"],
                way["threshold_policy"],
                way.get("pretrained_on_validation", False),
            )
            for way in ways
        ]
    rows = [row for row in results.rows if row["dataset"] == dataset and row["phase"] in ("finetune", "probe")]
    known = {row["protocol"] for row in rows}
    if "validation" in known:
        return [(True, "mAP", "validation", False)]
    return [(False, "last", "paper", False)] if known == {"paper"} else []


def _protocol_sentence(validation: bool, selected_by: str, threshold_policy: str, seen: bool) -> str:
    if seen:
        told = _protocol_sentence(validation, selected_by, threshold_policy, False)
        return f"NOT HELD OUT: pretrainings were trained on validation, only fine-tunings were not. For these: {told}"
    chosen = threshold_policy in ("validation", "per_label")
    if validation and selected_by != "last" and chosen:
        return f"Held-out: {HELD_OUT}"
    if not validation and threshold_policy == "paper":
        return f"Paper's protocol. {PAPERS}"
    kept = "validation is kept apart" if validation else "no validation is kept apart"
    epoch = "the last epoch is judged" if selected_by == "last" else "the epoch is chosen there"
    if threshold_policy == "paper":
        return f"OPTIMISTIC: {kept}, {epoch}, and thresholds, in columns with a star, are those that are best on the test labels."
    if chosen:
        return f"Held-out: {kept}, {epoch}, and thresholds are chosen on validation. {_STARRED}"
    return f"Fixed thresholds: {kept}, {epoch}, and thresholds are {threshold_policy}, set beforehand. {_STARRED}"


def choice_text(results: Results, dataset: str) -> str:
    """What `--choose` found for each line of a dataset; "" where nothing was chosen."""
    chosen = results.chosen.get(dataset, {})
    if not chosen:
        return ""
    tried = parse_grid(results.settings["choose"], "--choose")

    def described(name: str, value: str) -> str:
        try:
            values = {float(each[name]) for each in tried}
        except ValueError:  # no numbers
            return f"{name}={value}"
        at_the_end = len(values) > 1 and float(value) in (min(values), max(values))
        return f"{name}={value}{' (at an end of its range)' if at_the_end else ''}"

    seed = results.settings["seeds"].partition(",")[0]
    listed = "; ".join(f"{line} {' '.join(itertools.starmap(described, of.items()))}" for line, of in chosen.items())
    return f"Chosen on {dataset} by validation mAP of seed {seed}, among {results.settings['choose']}: {listed}."


def retrieval_text(results: Results, dataset: str) -> str:
    """What is measured of a search, and over how many samples where that says what a number is worth."""
    queries = results.queries.get(dataset, {})
    if not queries.get("dominant") or queries.get("ndcg_distributions"):  # older tables do not know
        return _RETRIEVAL_TEXT
    number = counted(queries["dominant"], "test sample")
    return f"{_RETRIEVAL_TEXT}\n\n{RETRIEVAL_TITLES['dominant']} is over the samples that have one label: {number}."


def metric_title(phase: str, metric: str) -> str:
    """How a metric is called."""
    return RETRIEVAL_TITLES[metric] if phase == "retrieval" else TITLES.get(metric, metric)


def mean_and_deviation(values: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """Mean ± sample standard deviation, in percent; the mean alone for one value."""
    scaled = [scale * value for value in values]
    deviation = f" ± {statistics.stdev(scaled):.{digits}f}" if len(scaled) > 1 else ""
    return f"{statistics.fmean(scaled):.{digits}f}{deviation}".replace("-", "−")


def results_table(results: Results, dataset: str, phase: str, *, starred: bool = True) -> str:
    """One row a method and setting; thresholded metrics under the honest protocol and, starred, under the paper's.

    Args:
        results: of an experiment.
        dataset: one of its datasets.
        phase: one of `PHASES`.
        starred: whether thresholds that are best on test are shown beside those of validation.
    """
    lines = lines_of(results, dataset, phase)
    columns: list[tuple[bool, str, str]] = []  # whether thresholds are best on test, metric, title
    if phase == "retrieval":
        measured_anywhere = {metric for measured in lines.values() for _, metric in measured}
        columns = [(False, name, title) for name, title in RETRIEVAL_TITLES.items() if name in measured_anywhere]
    else:
        judged_by = {protocol_of(measured) for measured in lines.values()}
        for name in METRIC_NAMES:
            if judged_by != {"paper"} or name not in THRESHOLDED_METRICS:
                columns.append((False, name, TITLES[name]))
            if name in THRESHOLDED_METRICS and (starred or "paper" in judged_by):
                columns.append((True, name, f"{TITLES[name]}*"))
    text = [f"| method | seeds | {' | '.join(title for _, _, title in columns)} |", "|---|---|" + "---|" * len(columns)]
    for line, measured in lines.items():
        own = protocol_of(measured)
        cells = []
        for optimistic, name, _ in columns:
            foreign = own == "paper" and name in THRESHOLDED_METRICS and not optimistic
            cells.append("" if foreign else _cell(measured.get(("paper" if optimistic else own, name), {})))
        seeds = max((len(values) for values in measured.values()), default=0)
        text.append(f"| {title_of(line)} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(text)


def _cell(values: Mapping[int, float]) -> str:
    return mean_and_deviation(list(values.values())) if values else ""


def distributions_table(results: Results, dataset: str) -> str:
    """What is known of the distributions that pretrainings learnt, one row a method and setting; "" where none learnt any."""
    lines = {
        line: {metric: list(values.values()) for (_, metric), values in measured.items()}
        for line, measured in lines_of(results, dataset, "pretrain").items()
    }
    known = {metric for found in lines.values() for metric in found}
    titles = {name: title for name, title in DISTRIBUTION_TITLES.items() if name in known}
    if not titles:
        return ""
    text = [f"| method | {' | '.join(title for title, _, _ in titles.values())} |", "|---|" + "---|" * len(titles)]
    for line, found in lines.items():
        cells = [
            mean_and_deviation(found[name], scale, digits) if name in found else ""
            for name, (_, scale, digits) in titles.items()
        ]
        text.append(f"| {title_of(line)} | {' | '.join(cells)} |")
    return "\n".join(text)


def baseline_title(baseline: Baseline, phase: str) -> str:
    """How a baseline is called."""
    name = " ".join(value if key == "method" else f"{key}={value}" for key, value in baseline.items())
    best_of = phase == "retrieval" and baseline.get("method") == "bce"
    return f"the better of {name}'s {' and '.join(REPRESENTATIONS['finetune'])}" if best_of else name


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


def _difference_cells(difference: PairedDifference) -> str:
    mean = points(difference.mean)
    if difference.pairs == 1:
        return f"{mean} | | | "
    text = f"{mean} ± {100 * difference.deviation:.1f}"
    text = f"**{text}**" if difference.clear else text
    interval = f"{points(difference.low)} to {points(difference.high)}"
    return f"{text} | {interval} | {_p(difference.t_p)} | {_p(difference.sign_flip_p)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.0005 else f"{value:.3f}"


def what_pairs_can_show(pairs: int) -> str:
    """A sentence on the least p of the sign-flip test of so many pairs."""
    if pairs < 2:
        return "One seed cannot tell a difference from chance."
    if pairs > EXACT_PAIRS:
        return (
            f"The sign-flip test of {pairs} pairs is of {DRAWN_PATTERNS + 1:,} patterns of signs, drawn once for all, and cannot go "
            f"below p = {smallest_sign_flip_p(pairs):.3g}."
        )
    return f"The sign-flip test of {pairs} pairs cannot go below p = {smallest_sign_flip_p(pairs):.3g}."


def document(results: Results, baseline: Baseline) -> str:
    """All tables of an experiment."""
    text = ["Test metrics in %, mean ± sample standard deviation over seeds."]
    for dataset in datasets_of(results):
        text += ["", f"## {dataset}"]
        for said in (protocol_text(results, dataset), choice_text(results, dataset)):
            text += ["", said] if said else []
        shared = shared_settings(results, dataset)
        text += ["", f"All with {shared}."] if shared else []
        distributions = distributions_table(results, dataset)
        if distributions:
            text += ["", f"### {dataset}, label distributions", "", distributions]
        for phase, title in PHASES.items():
            if not lines_of(results, dataset, phase):
                continue
            text += ["", f"### {dataset}, {title}", ""]
            text += [retrieval_text(results, dataset), ""] if phase == "retrieval" else []
            text += [results_table(results, dataset, phase)]
            metrics = compared_metrics(results, dataset, phase)
            table = differences_table(results, dataset, phase, baseline, metrics)
            if table.count("\n") > 1:
                pairs = max(
                    difference.pairs
                    for metric in metrics
                    for difference in differences(results, dataset, phase, metric, baseline).values()
                )
                text += [
                    "",
                    f"Differences to {baseline_title(baseline, phase)}, paired by seed, in points; bold where the interval leaves",
                    f"out zero. {what_pairs_can_show(pairs)}",
                    "",
                    table,
                ]
    return "\n".join(text) + "\n"
