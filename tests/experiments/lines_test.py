"""Lines of a table: a setting is named where lines differ in it, and a baseline is found whether it names it or not."""

import pytest

from mulsupcon_tf.experiments.lines import differences, lines_of
from mulsupcon_tf.experiments.markdown import document
from mulsupcon_tf.experiments.plan import parse_baseline
from mulsupcon_tf.experiments.table import Results


def fine_tuned(scores, grid):
    """Two seeds a line; `scores` by (method, settings)."""
    rows = [
        {"dataset": "d", "method": method, "seed": seed, **dict(settings), "phase": "finetune"}
        | {"protocol": "validation", "metric": "mAP", "value": value}
        for (method, settings), values in scores.items()
        for seed, value in enumerate(values)
    ]
    return Results({}, {}, grid, rows)


def test_a_setting_that_all_lines_share_is_not_named():
    tenth = ("label_fraction", "0.1")
    results = fine_tuned({("bce", (tenth,)): (0.5, 0.6), ("cld", (tenth,)): (0.6, 0.8)}, ["label_fraction"])
    assert list(lines_of(results, "d", "finetune")) == [("bce", ()), ("cld", ())]
    assert "\n\nAll with label_fraction=0.1.\n" in document(results, parse_baseline("method=bce"))


@pytest.mark.parametrize("baseline", ["method=bce", "method=bce label_fraction=0.1"])
def test_lines_meet_a_baseline_that_shares_a_setting_or_names_it(baseline):
    tenth = ("label_fraction", "0.1")
    results = fine_tuned({("bce", (tenth,)): (0.5, 0.6), ("cld", (tenth,)): (0.6, 0.8)}, ["label_fraction"])
    (line, difference), *others = differences(results, "d", "finetune", "mAP", parse_baseline(baseline)).items()
    assert line == ("cld", ()) and difference.mean == pytest.approx(0.15) and not others


def test_a_setting_that_one_method_does_not_read_is_named_where_it_is_read():
    average = ("average", "anchor")
    results = fine_tuned({("bce", ()): (0.5, 0.6), ("mulsupcon", (average,)): (0.6, 0.8)}, ["average"])
    assert list(lines_of(results, "d", "finetune")) == [("bce", ()), ("mulsupcon", (average,))]
    assert "All with" not in document(results, parse_baseline("method=bce"))
