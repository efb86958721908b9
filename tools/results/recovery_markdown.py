"""Recovered distributions against truth, as Markdown."""

import statistics
from collections.abc import Sequence

from mulsupcon_tf.experiments.lines import lines_of
from mulsupcon_tf.experiments.paired_tests import deviation_of
from mulsupcon_tf.experiments.table import Results, datasets_of

MEASURES = {
    "kl": "KL ↓",
    "chebyshev": "Chebyshev ↓",
    "clark": "Clark ↓",
    "canberra": "Canberra ↓",
    "cosine": "cosine ↑",
    "intersection": "intersection ↑",
}
RELEVANT = {f"{name}_relevant": title for name, title in MEASURES.items()} | {"pair_concordance": "pairs in order ↑"}

_CONTROLS = {"smoothing": "smoothed", "a classifier": "classifier"}

Values = dict[str, dict[str, list[float]]]  # by candidate and measure, one a seed


def values_of(results: Results, dataset: str) -> Values:
    """Values of one dataset by candidate and measure; ours come first."""
    lines = sorted(lines_of(results, dataset, "recovery").items(), key=lambda item: not _is_ours(item[0][0]))
    return {
        line[0]: {metric: list(by_seed.values()) for (_, metric), by_seed in measured.items()}
        for line, measured in lines
    }


def _is_ours(candidate: str) -> bool:
    return candidate.endswith(": d")


def table(values: Values, measures: dict[str, str]) -> str:
    """A row a candidate, the best of each column in bold."""
    means = {name: {m: statistics.fmean(found[m]) for m in measures} for name, found in values.items()}
    text = [f"| | {' | '.join(measures.values())} |", "|---|" + "---|" * len(measures)]
    for name, found in values.items():
        cells = []
        for measure, title in measures.items():
            best = (min if title.endswith("↓") else max)(means[other][measure] for other in means)
            cell = _cell(found[measure])
            cells.append(f"**{cell}**" if means[name][measure] == best else cell)
        text.append(f"| {name.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
    return "\n".join(text)


def _cell(values: Sequence[float]) -> str:
    deviation = deviation_of(values)
    return f"{statistics.fmean(values):.3f}" + (f" ± {deviation:.3f}" if deviation >= 0.0005 else "")


def verdict(values: Values) -> str:
    """Who comes nearest, and whether a control does better than ours; for one seed also that it is a trial."""
    ours = [name for name in values if _is_ours(name)]
    most_seeds = max(len(found["kl"]) for found in values.values())
    sentences = ["One seed, which shows no spread: a trial."] if most_seeds == 1 else []
    for measure, what, lower in (
        ("kl", "over all labels by KL", True),
        ("kl_relevant", "over the relevant labels by KL", True),
        ("pair_concordance", "in the order of labels", False),
    ):
        means = {name: statistics.fmean(found[measure]) for name, found in values.items()}
        pick = min if lower else max
        best, ours_best = pick(means, key=means.__getitem__), pick(ours, key=means.__getitem__)
        sentence = f"Best {what}: {best} ({means[best]:.3f})"
        if best != ours_best:
            sentence += f", ours at best {ours_best} ({means[ours_best]:.3f})"
        for called, name in _CONTROLS.items():
            if name in means:
                wins = means[name] < means[ours_best] if lower else means[name] > means[ours_best]
                sentence += f"; {called} {'beats' if wins else 'does not beat'} recovery ({means[name]:.3f})"
        sentences.append(sentence + ".")
    return " ".join(sentences)


def document(results: Results) -> str:
    """All tables."""
    text = [
        "Distances of distributions to the truth on test, mean ± sample standard deviation over seeds; the best of a column is",
        "bold. `d` is what a pretraining learnt.",
    ]
    for dataset in datasets_of(results):
        values = values_of(results, dataset)
        text += ["", f"### {dataset}", "", verdict(values), "", "All labels:", "", table(values, MEASURES)]
        text += ["", "The sample's own labels only:", "", table(values, RELEVANT)]
    return "\n".join(text) + "\n"
