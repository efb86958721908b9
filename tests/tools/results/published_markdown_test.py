from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.experiments.table import Results
from tests.helpers.made_up_results import scores_of
from tools.results.published import ANCESTOR, PAPER
from tools.results.published_markdown import published_table, reached


def offset_scores(published, offsets, protocol):
    """Rows of one method on scene: what others published in each metric, and offsets from it in points, one a seed."""
    rows = []
    for metric, points in zip(METRIC_NAMES, offsets, strict=True):
        values = [(published[metric] + point) / 100 for point in points]
        rows += scores_of({"any": values, "mulsupcon": values}, dataset="scene", protocol=protocol, metric=metric)
    return rows


def test_a_cell_is_bold_where_ours_is_lower_by_more_than_its_deviation():
    # mAP 0.6 lower, deviation 0.1; P@1 0.6 lower, deviation 1; the others 0.2 higher.
    offsets = [(-0.7, -0.6, -0.5), (-1.6, -0.6, 0.4), *[(0.2, 0.2, 0.2)] * 4]
    rows = offset_scores(ANCESTOR["scene"]["any"], offsets, "validation")
    only = {"any": ANCESTOR["scene"]["any"]}
    lines = published_table(Results({}, {}, [], rows), "scene", only).splitlines()
    assert lines[2:] == ["| any | **−0.6** | −0.6 | +0.2 | +0.2 | +0.2 | +0.2 |"]


def test_what_is_reached_of_the_papers_best_numbers_is_said_metric_by_metric():
    best = {name: max(scores[name] for scores in PAPER["scene"].values()) for name in METRIC_NAMES}
    assert best == {
        "mAP": 85.9,
        "precision_at_1": 83.2,
        "macro_f1": 78.7,
        "micro_f1": 80.7,
        "hamming_accuracy": 93.0,
        "example_f1": 81.5,
    }
    rows = offset_scores(best, [(0, 0.2), (0, 0), *[(-0.5, -0.3)] * 4], "paper")
    text = reached(Results({}, {}, [], rows), "scene")
    there, missed = text.split(" Not reached: ")
    assert "mAP 86.0 (any) against 85.9; P@1 83.2 (any) against 83.2." in there
    assert missed.startswith("macro-F1* 78.3 (any) against 78.7, 0.4 too low; ") and missed.count("too low") == 4


def test_the_published_numbers_have_every_metric_once():
    for published in (PAPER, ANCESTOR):
        for methods in published.values():
            assert all(set(scores) == set(METRIC_NAMES) for scores in methods.values())
