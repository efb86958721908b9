"""Our results beside published numbers, as Markdown."""

import statistics
from collections.abc import Mapping

from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.evaluation.thresholds import THRESHOLDED_METRICS
from mulsupcon_tf.experiments.lines import lines_of, protocol_of
from mulsupcon_tf.experiments.markdown import TITLES
from mulsupcon_tf.experiments.paired_tests import deviation_of
from mulsupcon_tf.experiments.table import Results
from mulsupcon_tf.utils.wording import points
from tools.results.published import PAPER, Scores


def _scores(results: Results, dataset: str) -> dict[str, dict[str, list[float]]]:
    """Values of each method without settings in %, one a seed, by method and metric."""
    return {
        method: {
            name: [100 * value for value in measured[protocol_of(measured), name].values()] for name in METRIC_NAMES
        }
        for (method, settings), measured in lines_of(results, dataset, "finetune").items()
        if not settings
    }


def published_table(results: Results, dataset: str, published: Mapping[str, Scores]) -> str:
    """Ours minus published numbers in points; bold where ours is lower by more than its own deviation over seeds.

    Both are rounded to one decimal first, as they are printed.
    """
    ours = _scores(results, dataset)
    text = [f"| method | {' | '.join(TITLES[name] for name in METRIC_NAMES)} |", "|---|" + "---|" * len(METRIC_NAMES)]
    for method, theirs in published.items():
        if method not in ours:
            continue
        cells = []
        for name in METRIC_NAMES:
            mean = round(statistics.fmean(ours[method][name]), 1)
            deviation = round(deviation_of(ours[method][name]), 1)
            cell = points((mean - theirs[name]) / 100)
            cells.append(f"**{cell}**" if round(theirs[name] - mean, 1) > deviation else cell)
        text.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(text)


def reached(results: Results, dataset: str) -> str:
    """Which of the paper's best numbers, one for each metric, the best of our methods reaches in the mean over seeds."""
    means = {
        method: {name: round(statistics.fmean(values), 1) for name, values in scores.items()}
        for method, scores in _scores(results, dataset).items()
    }
    there, missed = [], []
    for name in METRIC_NAMES:
        theirs = max(scores[name] for scores in PAPER[dataset].values())
        method = max(means, key=lambda each, name=name: means[each][name])
        ours = means[method][name]
        star = "*" if name in THRESHOLDED_METRICS else ""
        said = f"{TITLES[name]}{star} {ours:.1f} ({method}) against {theirs:.1f}"
        if ours >= theirs:
            there.append(said)
        else:
            missed.append(f"{said}, {theirs - ours:.1f} too low")
    parts = [f"Reached by our best method: {'; '.join(there) or 'none'}."]
    if missed:
        parts.append(f"Not reached: {'; '.join(missed)}.")
    return "The paper's best number in each metric. " + " ".join(parts)
