"""What MulSupCon's own code reaches, measured once, and how far ours is from it."""

from collections.abc import Mapping

from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.experiments.markdown import TITLES, lines_of
from mulsupcon_tf.experiments.paired_tests import deviation_of
from mulsupcon_tf.experiments.table import Results

# PyTorch 2.13 on CPU, 400 passes over train, means of 3 seeds, thresholds chosen on validation; in %, in the order of
# METRIC_NAMES. Its deviations were not kept.
ANCESTOR: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "scene": {
        "bce": (82.4, 78.2, 74.9, 74.5, 91.2, 74.8), "any": (84.3, 80.1, 77.8, 77.4, 92.2, 77.7),
        "all": (84.0, 80.1, 77.8, 77.3, 92.0, 77.7), "mulsupcon": (84.6, 80.4, 78.1, 77.6, 92.2, 77.5),
    },
    "yeast": {
        "bce": (46.5, 76.7, 45.1, 65.9, 79.7, 65.2), "any": (46.1, 75.9, 44.6, 65.9, 79.6, 65.2),
        "all": (50.2, 76.7, 47.3, 67.0, 80.5, 66.5), "mulsupcon": (49.0, 76.8, 46.7, 66.6, 80.1, 65.9),
    },
}  # fmt: skip


def ancestor_table(results: Results, dataset: str) -> str:
    """Ours less the ancestor's in points; bold where ours is lower by more than its own deviation over seeds.

    Both are rounded to one decimal first, as they are printed.
    """
    lines = lines_of(results, dataset, "finetune")
    text = [f"| method | {' | '.join(TITLES[name] for name in METRIC_NAMES)} |", "|---|" + "---|" * len(METRIC_NAMES)]
    for method, theirs in ANCESTOR[dataset].items():
        if (method, ()) not in lines:
            continue
        cells = []
        for name, their in zip(METRIC_NAMES, theirs, strict=True):
            values = [100 * value for value in lines[method, ()]["validation", name].values()]
            ours, deviation = round(sum(values) / len(values), 1), round(deviation_of(values), 1)
            cell = f"{round(ours - their, 1) + 0.0:+.1f}".replace("-", "−")
            cells.append(f"**{cell}**" if round(their - ours, 1) > deviation else cell)
        text.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(text)
