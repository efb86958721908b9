import pytest

from mulsupcon_tf.reporting.sentences import (
    METRIC_TITLES,
    comparison_sentence,
    curve_caption,
    recovery_sentences,
    search_sentence,
)


def recovery(recovered, uniform, smoothed, order=0.6):
    numbers = {"recovered": recovered, "uniform": uniform, "smoothed": smoothed}
    return {
        name: {"kl_relevant": kl, "pair_concordance": order if name == "recovered" or order is None else 0.5}
        for name, kl in numbers.items()
    }


@pytest.mark.parametrize(
    ("numbers", "nearest", "uniform", "smoothed"),
    [
        ((0.10, 0.20, 0.30), "recovered d", "helps {}", "helps {}"),
        ((0.10, 0.20, 0.05), "smoothed labels", "helps {}", "does not help {}"),
        ((0.20, 0.10, 0.25), "uniform y/|y|", "does not help {}", "helps {}"),
        ((0.20, 0.201, 0.199), "smoothed labels, and about as near", "does not help {}", "does not help {}"),
    ],
)
def test_recovery_is_judged_by_its_numbers(numbers, nearest, uniform, smoothed):
    verdict, distances, order = recovery_sentences(recovery(*numbers))
    assert f"(KL {min(numbers):.3f}): {nearest}" in verdict
    verdicts = uniform.format("over the uniform control"), smoothed.format("over the smoothed control")
    assert verdict.endswith(f"Recovery {verdicts[0]} and {verdicts[1]}.")
    assert [float(word.strip(",.")) for word in distances.split() if word.startswith("0.")] == [
        round(number, 3) for number in numbers
    ]
    assert "60.0 % of the pairs" in order


def test_without_a_pair_of_labels_there_is_no_order():
    *_, order = recovery_sentences(recovery(0.1, 0.2, 0.3, order=None))
    assert order == "No test sample has two labels whose true shares differ, so there is no order to recover."


def results(**changes):
    return dict.fromkeys(METRIC_TITLES, 0.5) | changes


@pytest.mark.parametrize(
    ("ours", "budgets", "said"),
    [
        (
            results(),
            (12, 12),
            "equals BCE only in all six metrics after the same 12 passes over the training data. Its mAP is the same",
        ),
        (results(mAP=0.51), None, "is ahead of BCE only in mAP. Its mAP is 1.0 points higher: 51.0 against 50.0."),
        (results(mAP=0.4996), None, "equals BCE only in all six metrics. Its mAP is the same: 50.0 against 50.0."),
        (
            results(mAP=0.45, micro_f1=0.6),
            (12, 9),
            "only in Micro-F1, behind in mAP (12 passes over the training data against 9)",
        ),
        (
            dict.fromkeys(METRIC_TITLES, 0.4),
            None,
            "is behind BCE only in all six metrics. Its mAP is 10.0 points lower",
        ),
    ],
)
def test_classifiers_are_compared_by_their_numbers(ours, budgets, said):
    assert said in comparison_sentence("CLD + fine-tuning", ours, results(), budgets)


def found(**scores):
    return {name: {"mAP": 1 - value, "ndcg_distributions": value} for name, value in scores.items()}


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (
            found(features=0.7, probabilities=0.5),
            "finds better than BCE only: nDCG@10 by areas 70.0 by features against 60.0 by",
        ),
        (
            found(features=0.4, probabilities=0.5),
            "finds worse than BCE only: nDCG@10 by areas 50.0 by probabilities against 60.0",
        ),
        (
            found(features=0.6004, probabilities=0.5),
            "finds as well as BCE only: nDCG@10 by areas 60.0 by features against 60.0",
        ),
    ],
)
def test_searches_are_compared_by_the_better_representation_of_each(ours, said):
    sentence = search_sentence("CLD + fine-tuning", ours, found(features=0.5, probabilities=0.6))
    assert said in sentence and sentence.endswith(" 60.0 by probabilities.")


def test_captions_of_curves_follow_the_curve():
    assert curve_caption("L", [2.0, 1.0, 0.5]) == "L falls from 2.000 to 0.500 in 3 epochs."
    assert curve_caption("L", [1.0, 2.0]) == "L rises from 1.000 to 2.000 in 2 epochs."
    assert curve_caption("L", [1.0, 1.01, 1.0]) == "L stays near 1.000 over 3 epochs."
    assert curve_caption("L", [1.0]) == "L: 1.000 after the only epoch."
