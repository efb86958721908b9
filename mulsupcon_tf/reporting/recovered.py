"""Recovered distributions where the truth is not known: what each label's share is, and where the mass leaks to."""

import numpy as np

from mulsupcon_tf.evaluation.distribution_distances import uniform_label_distribution
from mulsupcon_tf.reporting import figures, page
from mulsupcon_tf.reporting.inputs import ReportInputs
from mulsupcon_tf.reporting.sentences import percent

_MOST_OPEN_ROWS = 30


def recovered_section(inputs: ReportInputs) -> str | None:
    """Mean share of each label among the test samples that have it; None where nothing was recovered or truth is known."""
    test = inputs.dataset.splits["test"]
    if inputs.recovered is None or inputs.recovery or not test.labels.any():
        return None
    shares, equal, leaked = shares_of_labels(test.labels, inputs.recovered)
    order = np.argsort(-inputs.dataset.splits["train"].labels.mean(axis=0), kind="stable")
    names = inputs.dataset.label_names
    rows = [
        [names[label], *("–" if np.isnan(value[label]) else percent(value[label]) for value in (shares, equal, leaked))]
        for label in order
    ]
    caption = (
        "Mean recovered share (%) of a label among the labels of the test samples that have it, the share it would have if "
        "these counted alike, and the mean of its mass d among the samples that lack it. Most frequent label of train first."
    )
    table = page.table("recovered-labels", ["label", "recovered", "if alike", "where absent"], rows, caption=caption)
    own = test.labels > 0
    labelled = own.any(axis=1)
    leak = 1 - (inputs.recovered * own).sum(axis=1)[labelled].mean()
    sentence = (
        "The truth is not known here, so nothing says whether these shares are right. A label far above its equal share is one "
        f"that the run holds for the more important one where several meet. {percent(float(leak))} % of the mass lies on labels "
        "that the sample lacks."
    )
    picture = figures.shares_by_label(
        [names[label] for label in order if not np.isnan(shares[label])],
        *(value[order][~np.isnan(shares[order])] for value in (shares, equal)),
    )
    figure = page.figure(
        page.image(picture, "Recovered share of each label"),
        "Mean recovered share of a label among the labels of its samples, beside its share if these counted alike.",
        "wide",
    )
    content = table if len(rows) <= _MOST_OPEN_ROWS else page.details(f"All {len(rows)} labels", table)
    return page.section(
        "recovered", "Recovered label distributions", [page.paragraph(sentence), page.block("split", [figure, content])]
    )


def shares_of_labels(labels: np.ndarray, recovered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean shares of each label, `[C]` each, NaN where there is no such sample.

    Args:
        labels: `[N, C]`, 0 or 1.
        recovered: `[N, C]` distributions d.

    Returns:
        d_j over the samples with label j, where d is scaled to sum 1 on a sample's own labels; 1/|y| over the same samples;
        d_j as it is over the samples without it.
    """
    present = labels > 0
    own = recovered * present
    own = own / np.maximum(own.sum(axis=1, keepdims=True), 1e-12)
    counts, absent = present.sum(axis=0), (~present).sum(axis=0)

    def mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    return (
        mean(own.sum(axis=0), counts),
        mean(uniform_label_distribution(labels).sum(axis=0), counts),
        mean((recovered * ~present).sum(axis=0), absent),
    )
