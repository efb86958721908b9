"""Plain sentences made from a run's numbers: what a table says, in words, whatever way the numbers fell."""

from collections.abc import Mapping, Sequence
from typing import Any

from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.utils.wording import counted

METRIC_TITLES = {
    "mAP": "mAP",
    "precision_at_1": "Precision@1",
    "macro_f1": "Macro-F1",
    "micro_f1": "Micro-F1",
    "hamming_accuracy": "Hamming accuracy",
    "example_f1": "Example-F1",
}
CANDIDATE_TITLES = {
    "recovered": "recovered d",
    "uniform": "uniform y/|y|",
    "smoothed": "smoothed labels",
}
CONTROLS = ("uniform", "smoothed")
# Differences below this share of the larger number are not called differences.
TIE = 0.02


def percent(value: float) -> str:
    """0.7123 -> "71.2"."""
    return f"{100 * value:.1f}"


def difference_of_rounded(first: float, second: float) -> float:
    """The first minus the second after both were rounded as `percent` shows them."""
    return (round(100 * first, 1) - round(100 * second, 1)) / 100


def join_words(words: Sequence[str]) -> str:
    """Lists words as "a", "a and b", or "a, b and c"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def comparison_sentence(
    title: str, results: Mapping[str, float], baseline: Mapping[str, float], budgets: tuple[int, int] | None
) -> str:
    """How a classifier stands against BCE only on test.

    Args:
        title: of the classifier.
        results: its six metrics.
        baseline: the six metrics of BCE only.
        budgets: passes over train of both, or None where that is not known.
    """
    differences = {name: difference_of_rounded(results[name], baseline[name]) for name in METRIC_NAMES}
    ahead = [METRIC_TITLES[name] for name, difference in differences.items() if difference > 0]
    behind = [METRIC_TITLES[name] for name, difference in differences.items() if difference < 0]
    if not behind and not ahead:
        verdict = "equals BCE only in all six metrics"
    elif not behind:
        verdict = (
            f"is ahead of BCE only in {join_words(ahead)}"
            if len(ahead) < 6
            else "is ahead of BCE only in all six metrics"
        )
    elif not ahead:
        verdict = (
            f"is behind BCE only in {join_words(behind)}"
            if len(behind) < 6
            else "is behind BCE only in all six metrics"
        )
    else:
        verdict = f"is ahead of BCE only in {join_words(ahead)}, behind in {join_words(behind)}"
    if budgets is None:
        budget = ""
    elif budgets[0] == budgets[1]:
        budget = f" after the same {budgets[0]} passes over the training data"
    else:
        budget = f" ({budgets[0]} passes over the training data against {budgets[1]})"
    difference = differences["mAP"]
    how = (
        "the same"
        if difference == 0
        else f"{abs(100 * difference):.1f} points {'higher' if difference > 0 else 'lower'}"
    )
    return (
        f"On test, {title} {verdict}{budget}. Its mAP is {how}: {percent(results['mAP'])} against "
        f"{percent(baseline['mAP'])}."
    )


def search_sentence(
    title: str, results: Mapping[str, Mapping[str, float]], baseline: Mapping[str, Mapping[str, float]]
) -> str:
    """How a classifier stands against BCE only as a search engine, each by what finds best: its features or probabilities.

    By nDCG: one list for all queries can have a high mAP.

    Args:
        title: of the classifier.
        results: its measures by what is searched by; the data have true distributions.
        baseline: the same of BCE only.
    """
    measure = "ndcg_distributions"

    def best(found: Mapping[str, Mapping[str, float]]) -> str:
        return max(found, key=lambda representation: found[representation][measure])

    ours, theirs = best(results), best(baseline)
    first, second = results[ours][measure], baseline[theirs][measure]
    difference = difference_of_rounded(first, second)
    verdict = "as well as" if difference == 0 else f"{'better' if difference > 0 else 'worse'} than"
    return (
        f"As a search engine, {title} finds {verdict} BCE only: nDCG@10 by areas {percent(first)} by {ours} against "
        f"{percent(second)} by {theirs}."
    )


def recovery_sentences(recovery: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Which of recovery and controls is nearest to the truth, and whether recovery helps over each control.

    Distances are those on the relevant labels: the controls read the labels, so the comparison is fair only there.

    Args:
        recovery: as in `summary.json`: results of `compare_distributions` by candidate; None for what is not defined.

    Returns:
        The verdict, the distances (KL) behind it, and a sentence on the order of labels.
    """
    distances = {name: recovery[name]["kl_relevant"] for name in CANDIDATE_TITLES}
    best = min(distances.values())
    ranked = sorted(distances, key=lambda name: distances[name])
    first, *tied = [CANDIDATE_TITLES[name] for name in ranked if _tied(distances[name], best)]
    also = f", and about as near {join_words(tied)}" if tied else ""
    if recovery["recovered"]["pair_concordance"] is None:
        in_order = "No test sample has two labels whose true shares differ, so there is no order to recover."
    else:
        order = {name: percent(recovery[name]["pair_concordance"]) for name in CANDIDATE_TITLES}
        in_order = (
            f"Of two labels of one sample, recovered d puts the more important one first in {order['recovered']} % of the pairs, "
            f"smoothed labels in {order['smoothed']} %; uniform labels give no order and count as {order['uniform']} %."
        )
    return [
        f"Nearest to the truth on a sample's own labels (KL {best:.3f}): {first}{also}. "
        f"Recovery {' and '.join(_help(name, distances) for name in CONTROLS)}.",
        "KL to the truth: " + ", ".join(f"{CANDIDATE_TITLES[name]} {distances[name]:.3f}" for name in distances) + ".",
        in_order,
    ]


def _help(control: str, distances: Mapping[str, float]) -> str:
    """Whether d is nearer to the truth than a control."""
    ours, theirs = distances["recovered"], distances[control]
    nearer = ours < theirs and not _tied(ours, theirs)
    return f"{'helps' if nearer else 'does not help'} over the {control} control"


def _tied(first: float, second: float) -> bool:
    return abs(first - second) <= TIE * max(first, second)


def curve_caption(what: str, values: Sequence[float]) -> str:
    """Where a curve of one value an epoch starts and ends."""
    first, last = values[0], values[-1]
    if len(values) == 1:
        return f"{what}: {last:.3f} after the only epoch."
    if max(values) - min(values) <= TIE * max(map(abs, values)):
        return f"{what} stays near {last:.3f} over {counted(len(values), 'epoch')}."
    return f"{what} {'falls' if last < first else 'rises'} from {first:.3f} to {last:.3f} in {counted(len(values), 'epoch')}."


def neighbour_sentence(title: str, share: float, chance: float, what: str) -> str:
    """How often near samples share what colours them, the dominant or the rarest label."""
    return (
        f"{title}: of the 10 nearest neighbours of a sample (by angle, in the full space, not on the map) "
        f"{percent(share)} % have the same {what}; {percent(chance)} % would by chance."
    )
