"""The sections of a report that hold numbers: results, recovery, labels, settings."""

from typing import Any

import numpy as np

from mulsupcon_tf.datasets.base import SPLIT_NAMES
from mulsupcon_tf.evaluation.distribution_distances import smoothed_label_distribution, uniform_label_distribution
from mulsupcon_tf.evaluation.results import METRIC_NAMES, chance_sentence
from mulsupcon_tf.evaluation.thresholds import above, threshold_text
from mulsupcon_tf.reporting import figures, page
from mulsupcon_tf.reporting.inputs import ReportInputs, Run
from mulsupcon_tf.reporting.sentences import (
    CANDIDATE_TITLES,
    METRIC_TITLES,
    difference_of_rounded,
    join_words,
    percent,
    recovery_sentences,
)
from mulsupcon_tf.utils.wording import points

# Name in summary.json, heading, whether larger is better.
RECOVERY_MEASURES = (
    ("kl", "KL\N{NO-BREAK SPACE}↓", False),
    ("chebyshev", "Chebyshev\N{NO-BREAK SPACE}↓", False),
    ("cosine", "Cosine\N{NO-BREAK SPACE}↑", True),
    ("intersection", "Intersection\N{NO-BREAK SPACE}↑", True),
)
_SETTINGS_OF_THE_FILES = ("workdir", "data_dir", "init_from", "pretrained")


def results_section(inputs: ReportInputs) -> str | None:
    """The six metrics on test and validation, with thresholds."""
    runs = inputs.classifiers
    if not runs:
        return None
    both = len(runs) == 2
    splits = {"test": "test"} | ({"validation": "val"} if all("val" in run.summary for run in runs) else {})
    head, groups = ["metric (%)"], [("", 1)]
    for name in (*splits, "threshold"):
        difference = both and name == "test"
        head += [run.title for run in runs] + (["difference"] if difference else [])
        groups.append((name, len(runs) + difference))
    rows: list[list[str]] = []
    bold: set[tuple[int, int]] = set()
    for number, metric in enumerate(METRIC_NAMES):
        row = [METRIC_TITLES[metric]]
        for split in splits.values():
            values = [run.summary[split][metric] for run in runs]
            row += [percent(value) for value in values]
            if both and split == "test":
                gain = difference_of_rounded(*values)
                row.append(points(gain))
                if gain:
                    bold.add((number, 1 if gain > 0 else 2))
        row += [
            threshold_text(run.summary["thresholds"][metric]) if metric in run.summary["thresholds"] else "–"
            for run in runs
        ]
        rows.append(row)
    caption = f"The six metrics. {_threshold_remark(runs)}"
    if both:
        caption += " The better test number is bold; the difference is in points."
    for run in runs:
        details = run.summary["details"]["test"]
        if "intervals" in details:
            low, high = details["intervals"]["mAP"]
            caption += (
                f" If test samples are drawn anew (bootstrap), 95 % of the mAP of {run.title} lie between {percent(low)} and "
                f"{percent(high)}."
            )
            sentence = chance_sentence(run.summary["test"], details["chance"])
            caption += f" {run.title} {sentence}." if sentence else ""
    table = page.table("metrics", head, rows, caption=caption, groups=groups, bold=frozenset(bold))
    return page.section("results", "Classification", [table])


def _threshold_remark(runs: list[Run]) -> str:
    remarks = []
    policies = list(dict.fromkeys(run.summary["threshold_policy"] for run in runs))
    for policy in policies:
        titles = ", ".join(run.title for run in runs if run.summary["threshold_policy"] == policy)
        whose = f" ({titles})" if len(policies) > 1 else ""
        if policy == "paper":
            remarks.append(f"OPTIMISTIC{whose}: thresholds were chosen on the test labels.")
        elif policy == "per_label":
            remarks.append(f"Thresholds were chosen on validation, one for each metric and label{whose}.")
        elif policy == "validation":
            remarks.append(f"Thresholds were chosen on validation, one for each metric{whose}.")
        else:
            remarks.append(f"The threshold was fixed at {policy}{whose}.")
    return " ".join(remarks)


def recovery_section(inputs: ReportInputs) -> str | None:
    """Recovered distributions against the truth; None where there is none."""
    recovery = inputs.recovery
    if not (inputs.pretrain and recovery):
        return None
    own = _recovery_table(
        "recovery-own",
        recovery,
        "_relevant",
        [("pair_concordance", "Pairs\N{NO-BREAK SPACE}↑", True)],
        "On the labels that a sample has: mean distance (↓) or similarity (↑) to the true distributions of the test split, and, "
        "as pairs, the share of label pairs of one sample whose order is right. Uniform and smoothed labels need no recovery: "
        "y/|y| itself, and its mean over near samples.",
    )
    everywhere = _recovery_table(
        "recovery-all",
        recovery,
        "",
        [],
        "Over all labels: d also pays for its mass on labels that the sample lacks. The controls read the labels and have none there.",
    )
    nearest, *others = recovery_sentences(recovery)
    sentences = [page.paragraph(nearest, "lead"), *(page.paragraph(sentence) for sentence in others)]
    return page.section(
        "recovery",
        "Recovered label distributions",
        [*sentences, page.block("beside", [page.block("", [own, everywhere]), _calibration(inputs)])],
    )


def _recovery_table(
    identifier: str,
    recovery: dict[str, dict[str, Any]],
    suffix: str,
    more: list[tuple[str, str, bool]],
    caption: str,
) -> str:
    columns = [(key + suffix, title, larger_is_better) for key, title, larger_is_better in RECOVERY_MEASURES] + more
    rows = [
        [CANDIDATE_TITLES[name], *(_three_digits(recovery[name][key]) for key, _, _ in columns)]
        for name in CANDIDATE_TITLES
    ]
    bold = set()
    for column, (_, _, larger_is_better) in enumerate(columns, start=1):
        values = {number: float(row[column]) for number, row in enumerate(rows) if row[column] != "–"}
        best = (max if larger_is_better else min)(values.values(), default=None)
        bold |= {(row, column) for row, value in values.items() if value == best}
    head = ["distribution", *(title for _, title, _ in columns)]
    return page.table(
        identifier, head, rows, caption=f"{caption} The best of each column is bold.", bold=frozenset(bold)
    )


def _three_digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _calibration(inputs: ReportInputs) -> str:
    test, pretrain = inputs.dataset.splits["test"], inputs.pretrain
    assert pretrain and test.distributions is not None and inputs.recovered is not None
    own = test.labels > 0
    several = own & (own.sum(axis=1, keepdims=True) >= 2)
    on_own = inputs.recovered * own
    candidates = {
        "recovered d": on_own / np.maximum(on_own.sum(axis=1, keepdims=True), 1e-12),
        "uniform y/|y|": uniform_label_distribution(test.labels),
        "smoothed labels": smoothed_label_distribution(test.labels, pretrain.outputs["features"]),
    }
    png = figures.recovered_against_true(
        test.distributions[several], {name: shares[several] for name, shares in candidates.items()}
    )
    leak = 1 - on_own.sum(axis=1)[own.any(axis=1)].mean()
    caption = (
        "Mean recovered share of a label in ten bins of its true share, over the labels of test samples that have at least two; "
        "a recovery without error lies on the diagonal. d is restricted to the sample's labels here; "
        f"before that, {percent(leak)} % of its mass lies on labels that the sample lacks."
    )
    return page.figure(page.image(png, "Recovered share over true share"), caption, "wide")


def labels_section(inputs: ReportInputs) -> str | None:
    """Average precision and F1 of each label beside its frequency in train."""
    runs = inputs.classifiers
    if not runs:
        return None
    frequencies = inputs.dataset.splits["train"].labels.mean(axis=0)
    series = {run.title: run.summary["details"]["test"]["average_precision"] for run in runs}
    order = np.argsort(-frequencies, kind="stable")
    both = len(runs) == 2
    f1 = [_f1_of_labels(run, inputs.dataset.splits["test"].labels) for run in runs]
    head = ["label", "in train (%)", *series, *(["difference"] if both else []), *series]
    groups = [("", 2), ("average precision", len(runs) + both), ("F1", len(runs))]
    rows = []
    for index in order:
        values = [column[index] for column in series.values()]
        row = [inputs.dataset.label_names[index], percent(frequencies[index])]
        row += ["–" if value is None else percent(value) for value in values]
        if both:
            row.append("–" if None in values else points(difference_of_rounded(*values)))
        rows.append(row + ["–" if np.isnan(column[index]) else percent(column[index]) for column in f1])
    chosen = join_words(list(dict.fromkeys(threshold_text(run.summary["thresholds"]["macro_f1"]) for run in runs)))
    caption = (
        "Average precision and F1 on test (%), most frequent label first. "
        f"F1 is that of the decisions by the threshold for macro-F1, {chosen}."
    )
    if any(value is None for column in series.values() for value in column):
        caption += " – : no test sample has the label."
    table = page.table("labels-table", head, rows, caption=caption, groups=groups)
    png = figures.average_precision_by_frequency(frequencies, series, inputs.dataset.label_names)
    caption = (
        "Each label's average precision on test over its frequency in train"
        + (", one point a run. The line joins the two." if len(runs) == 2 else ".")
        + " The dash is what random scores get: about the frequency."
    )
    picture = page.figure(page.image(png, "Average precision over frequency"), caption, "wide")
    content = table if len(rows) <= 30 else page.details(f"All {len(rows)} labels", table)
    return page.section("labels", "Label by label", [page.block("split", [picture, content])])


def _f1_of_labels(run: Run, labels: np.ndarray) -> np.ndarray:
    """F1 of each label, `[C]`, by the threshold for macro-F1; NaN for a label without a positive."""
    decided = above(run.outputs["probabilities"], run.summary["thresholds"]["macro_f1"])
    present = labels > 0
    hits, total = (decided & present).sum(axis=0), decided.sum(axis=0) + present.sum(axis=0)
    return np.where(present.any(axis=0), 2 * hits / np.maximum(total, 1), np.nan)


def settings_section(inputs: ReportInputs) -> str:
    """What ran, how long, and every setting."""
    runs = inputs.runs
    split_sizes = ", ".join(f"{len(inputs.dataset.splits[name])} {name}" for name in SPLIT_NAMES)
    rows = [[run.title, run.method_title, *_facts(run)] for run in runs]
    table = page.table(
        "runs",
        ["run", "method", "backbone", "epochs", "steps", "seconds", "samples/s", "seed"],
        rows,
        text_columns=3,
        caption=f"The runs, on {inputs.dataset.name}: {inputs.dataset.num_labels} labels, {split_sizes}.",
    )
    names = sorted({name for run in runs for name in run.flags if name not in _SETTINGS_OF_THE_FILES})
    flag_rows = [[f"--{name}", *(run.flags.get(name, "–") for run in runs)] for name in names]
    flags = page.table(
        "flags",
        ["setting", *(run.title for run in runs)],
        flag_rows,
        text_columns=1 + len(runs),
        css_class="settings",
        caption="Resolved settings, as in each run's flags.txt; – : not a setting of that run, or not set.",
    )
    return page.section("settings", "Settings", [table, page.details("All settings", flags)])


def _facts(run: Run) -> list[str]:
    summary: dict[str, Any] = run.summary
    return [
        summary["backbone"],
        str(summary["epochs"]),
        str(summary["steps"]),
        f"{summary['seconds']:.0f}",
        "–" if summary["samples_per_second"] is None else f"{summary['samples_per_second']:.0f}",
        str(summary["seed"]),
    ]
