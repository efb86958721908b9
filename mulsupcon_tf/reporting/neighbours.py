"""Test samples with their nearest neighbours, and what `evaluate --retrieval` has said of the runs."""

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.evaluation.nearest import nearest_rows
from mulsupcon_tf.reporting import page
from mulsupcon_tf.reporting.gallery import sample_name, scene_of
from mulsupcon_tf.reporting.inputs import ReportInputs, Run
from mulsupcon_tf.reporting.sentences import percent

QUERIES = 5
SHOWN = 7  # neighbours of a query
_FEWEST_SAMPLES = SHOWN + 1
_MEASURES = {
    "mAP": "mAP@{k}, shared labels",
    "ndcg_labels": "nDCG@{k} of labels",
    "dominant": "dominant@{k}",
    "ndcg_distributions": "nDCG@{k} of true distributions",
}


def neighbours_section(inputs: ReportInputs) -> str | None:
    """Some test samples beside their nearest other test samples, by each run; None where there are too few."""
    test = inputs.dataset.splits["test"]
    labelled = np.flatnonzero(test.labels.any(axis=1))
    if len(test) < _FEWEST_SAMPLES or not len(labelled):
        return None
    queries = np.sort(np.random.default_rng(0).choice(labelled, min(QUERIES, len(labelled)), replace=False))
    parts = [
        page.paragraph(
            f"Test samples drawn at random, and for each the {SHOWN} other test samples that are nearest by cosine, "
            "the nearest first.",
            "note",
        ),
        page.block("legend", _legend(test.distributions is not None)),
    ]
    for run in [run for run in (inputs.pretrain or inputs.finetune, inputs.bce) if run]:
        nearest = nearest_rows(run.outputs["embedding"], queries, SHOWN)
        strips = [_strip(inputs.dataset, int(row), near) for row, near in zip(queries, nearest, strict=True)]
        parts += [f"<h3>{page.escape(run.title)}</h3>", *strips]
    return page.section("neighbours", "Nearest neighbours", [*parts, _retrieval(inputs)])


def _legend(truth: bool) -> list[str]:
    return [
        page.swatch("query", "the sample itself"),
        page.swatch("same", "same dominant label (largest true share)" if truth else "has the same labels"),
        page.swatch("shared", "shares a label"),
        page.swatch("nothing", "shares none"),
    ]


def _strip(dataset: MultiLabelDataset, query: int, nearest: np.ndarray) -> str:
    test = dataset.splits["test"]
    shared = (test.labels[nearest] & test.labels[query]).any(axis=1)
    if test.distributions is not None:
        same = shared & (test.distributions[nearest].argmax(axis=1) == test.distributions[query].argmax())
    else:
        same = (test.labels[nearest] == test.labels[query]).all(axis=1)
    classes = np.where(same, "same", np.where(shared, "shared", "nothing"))
    tiles = [_tile(dataset, query, "query"), *map(_tile, [dataset] * len(nearest), nearest.tolist(), classes.tolist())]
    share = shared.mean()
    caption = f"{sample_name(test, query)}: {percent(float(share))} % of its nearest samples share a label with it."
    return page.figure(page.block("strip", tiles), caption, "neighbours")


def _tile(dataset: MultiLabelDataset, row: int, css_class: str) -> str:
    test = dataset.splits["test"]
    words = ", ".join(name for name, here in zip(dataset.label_names, test.labels[row], strict=True) if here)
    words = words or "no label"
    text = f'<span class="words">{page.escape(words)}</span>'
    if dataset.kind != "image":
        return f'<div class="{css_class}">{text}</div>'
    return f'<div class="{css_class}">{scene_of(test, row, f"{sample_name(test, row)}: {words}")}{text}</div>'


def _retrieval(inputs: ReportInputs) -> str:
    runs = [run for run in inputs.runs if run.retrieval]
    if not runs:
        return page.paragraph(
            "Numbers for all test samples against train: python -m mulsupcon_tf.evaluate --retrieval --workdir=DIR, "
            "then this report again.",
            "note",
        )
    tables = [_retrieval_table(run) for run in runs]
    return "<h3>All test samples</h3>" + page.block("split", tables)


def _retrieval_table(run: Run) -> str:
    judged = run.retrieval
    assert judged
    rows = []
    for name, title in _MEASURES.items():
        # A run that an older version judged has no such list.
        found = [each.get(name, {}) for each in (judged["results"], judged["control"], judged.get("one_list", {}))]
        cells = ["–" if each.get("value") is None else percent(each["value"]) for each in found]
        rows.append([title.format(k=judged["neighbours"]), *cells, str(found[0]["queries"])])
    caption = (
        f"{run.title}: the samples of {judged['split']} search {judged['gallery']} by cosine of {judged['representation']} (%). "
        "Random: the same with random vectors. One list: the same samples for every query, those that share a label with most."
    )
    if not judged["truth"]:
        caption += " The true distributions are not known: dominant is over the samples that have one label."
    return page.table(
        f"retrieval-{run.role}", ["retrieval (%)", "run", "random", "one list", "queries"], rows, caption=caption
    )
