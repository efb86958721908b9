"""Lines of a table: a setting is named where lines differ in it, and a baseline is found whether it names it or not."""

import pytest

from mulsupcon_tf.experiments.lines import differences, lines_of
from mulsupcon_tf.experiments.markdown import document, results_table
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


def judged(threshold, protocols):
    """Rows of two seeds of `bce` at a threshold; by protocol the macro-F1 of each seed. mAP is that of the threshold."""
    head = {"dataset": "d", "method": "bce", "threshold": threshold, "phase": "finetune"}
    return [
        head | {"seed": seed, "protocol": protocol, "metric": metric, "value": each}
        for protocol, values in protocols.items()
        for seed, value in enumerate(values)
        for metric, each in (("mAP", float(threshold == "paper")), ("macro_f1", value))
    ]


def test_lines_that_were_judged_by_other_thresholds_stand_in_one_table():
    best = [0.8, 0.9]
    rows = [
        *judged("validation", {"validation": [0.4, 0.5], "paper": best}),
        *judged("0.5", {"0.5": [0.2, 0.2], "paper": best}),
        *judged("paper", {"paper": best}),
    ]
    results = Results({}, {}, ["threshold"], rows)
    table = results_table(results, "d", "finetune").splitlines()
    titles = [each.strip() for each in table[0].split("|")]
    f1, optimistic, precision = titles.index("macro-F1"), titles.index("macro-F1*"), titles.index("mAP")
    cells = {each[1]: each for each in ([cell.strip() for cell in row.split("|")] for row in table[2:])}
    shown = {name: (row[precision], row[f1], row[optimistic]) for name, row in cells.items()}
    assert shown == {
        "bce threshold=validation": ("0.0 ± 0.0", "45.0 ± 7.1", "85.0 ± 7.1"),
        "bce threshold=0.5": ("0.0 ± 0.0", "20.0 ± 0.0", "85.0 ± 7.1"),
        "bce threshold=paper": ("100.0 ± 0.0", "", "85.0 ± 7.1"),
    }
    baseline = parse_baseline("threshold=validation")
    compared = {
        metric: {dict(line[1])["threshold"]: difference.mean for line, difference in found.items()}
        for metric in ("mAP", "macro_f1")
        for found in [differences(results, "d", "finetune", metric, baseline)]
    }
    # Thresholds that are best on test are no partner for those of validation; mAP has no thresholds.
    assert compared == {"mAP": {"0.5": 0.0, "paper": 1.0}, "macro_f1": {"0.5": pytest.approx(-0.25)}}


def test_beside_a_setting_as_baseline_a_search_is_compared_with_the_same_representation():
    scores = {("0.001", "features"): 0.5, ("0.001", "probabilities"): 0.6, ("0.004", "features"): 0.55}
    head = {"dataset": "d", "method": "bce", "phase": "retrieval", "metric": "mAP"}
    rows = [
        head | {"seed": seed, "learning_rate": rate, "protocol": representation, "value": value}
        for (rate, representation), value in scores.items()
        for seed in (0, 1)
    ]
    results = Results({}, {}, ["learning_rate"], rows)
    found = differences(results, "d", "retrieval", "mAP", parse_baseline("learning_rate=0.001"))
    assert [(line[0], difference.mean) for line, difference in found.items()] == [
        ("bce, features", pytest.approx(0.05))
    ]
