"""Numbers of other authors that ours are held against, in %."""

from collections.abc import Mapping

from mulsupcon_tf.evaluation.results import METRIC_NAMES

Scores = Mapping[str, float]  # by name of metric


_COLUMNS_OF_PAPER = ("hamming_accuracy", "example_f1", "micro_f1", "macro_f1", "precision_at_1", "mAP")


def _paper(*scores: float) -> Scores:
    return dict(zip(_COLUMNS_OF_PAPER, scores, strict=True))


def _ancestor(*scores: float) -> Scores:
    return dict(zip(METRIC_NAMES, scores, strict=True))


# Chen et al., arXiv 2501.19145v1, tables of results, in the order of their columns: one run each, no deviations; MulSupCon is
# that paper's own run of it.
PAPER: Mapping[str, Mapping[str, Scores]] = {
    "scene": {
        "mulsupcon": _paper(92.5, 79.2, 78.2, 78.7, 81.1, 85.9),
        "rld": _paper(93.0, 81.5, 80.7, 77.0, 83.2, 82.5),
        "cld": _paper(92.9, 81.3, 80.5, 76.6, 82.6, 82.1),
    },
    "yeast": {
        "mulsupcon": _paper(80.3, 65.8, 66.8, 46.4, 76.1, 48.0),
        "rld": _paper(80.2, 66.1, 67.1, 48.6, 76.2, 51.4),
        "cld": _paper(80.5, 66.4, 67.6, 49.6, 76.9, 52.1),
    },
    "delicious": {
        "mulsupcon": _paper(98.2, 37.4, 39.1, 15.3, 68.1, 15.5),
        "rld": _paper(98.2, 38.2, 39.8, 18.8, 69.1, 18.1),
        "cld": _paper(98.2, 38.4, 40.1, 19.5, 68.5, 18.5),
    },
}

# MulSupCon's own code: PyTorch 2.13 on CPU, 400 passes over train, means of 3 seeds, thresholds chosen on validation; in the
# order of METRIC_NAMES. Its deviations were not kept.
ANCESTOR: Mapping[str, Mapping[str, Scores]] = {
    "scene": {
        "bce": _ancestor(82.4, 78.2, 74.9, 74.5, 91.2, 74.8),
        "any": _ancestor(84.3, 80.1, 77.8, 77.4, 92.2, 77.7),
        "all": _ancestor(84.0, 80.1, 77.8, 77.3, 92.0, 77.7),
        "mulsupcon": _ancestor(84.6, 80.4, 78.1, 77.6, 92.2, 77.5),
    },
    "yeast": {
        "bce": _ancestor(46.5, 76.7, 45.1, 65.9, 79.7, 65.2),
        "any": _ancestor(46.1, 75.9, 44.6, 65.9, 79.6, 65.2),
        "all": _ancestor(50.2, 76.7, 47.3, 67.0, 80.5, 66.5),
        "mulsupcon": _ancestor(49.0, 76.8, 46.7, 66.6, 80.1, 65.9),
    },
}
