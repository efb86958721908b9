from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.experiments.table import Results
from tools.results.ancestor_numbers import ANCESTOR, ancestor_table


def test_a_cell_is_bold_where_ours_is_lower_by_more_than_its_deviation():
    theirs = ANCESTOR["scene"]["any"]
    # mAP 0.6 lower, deviation 0.1; P@1 0.6 lower, deviation 1; the others 0.2 higher.
    offsets = [(-0.7, -0.6, -0.5), (-1.6, -0.6, 0.4), *[(0.2, 0.2, 0.2)] * 4]
    rows = [
        {
            "dataset": "scene", "method": "any", "seed": seed, "phase": "finetune", "protocol": "validation", "metric": name,
            "value": (their + offset) / 100,
        }
        for name, their, seeds in zip(METRIC_NAMES, theirs, offsets, strict=True) for seed, offset in enumerate(seeds)
    ]  # fmt: skip
    lines = ancestor_table(Results({}, {}, [], rows), "scene").splitlines()
    assert lines[2:] == ["| any | **−0.6** | −0.6 | +0.2 | +0.2 | +0.2 | +0.2 |"]
