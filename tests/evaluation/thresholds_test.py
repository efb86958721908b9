import numpy as np
import pytest

from mulsupcon_tf.evaluation import results as evaluation
from mulsupcon_tf.evaluation import thresholds as thresholds_module
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.naive_thresholds import TWENTIETHS, naive_thresholds, random_split


@pytest.mark.parametrize("seed", range(4))
def test_chosen_thresholds_equal_a_search_with_scikit_learn(seed):
    truth, probabilities = random_split(seed)
    assert thresholds_module.choose_thresholds(truth, probabilities) == naive_thresholds(
        truth, probabilities, TWENTIETHS
    )


def test_the_metrics_may_choose_different_thresholds():
    assert len(set(thresholds_module.choose_thresholds(*random_split(0)).values())) > 1


def test_ties_go_to_the_threshold_nearest_to_one_half_then_to_the_lower_one():
    truth = np.array([[1, 0], [0, 1], [1, 1]])

    def chosen(low, high):
        return set(thresholds_module.choose_thresholds(truth, np.where(truth == 1, high, low)).values())

    assert chosen(0.02, 0.98) == {0.5}  # every threshold is perfect
    assert chosen(0.62, 0.98) == {0.65}  # perfect from 0.65 on
    assert chosen(0.02, 0.33) == {0.3}  # perfect up to 0.3
    perfect = np.where(truth == 1, 0.9, 0.1)
    assert set(thresholds_module.choose_thresholds(truth, perfect, grid=[0.55, 0.45]).values()) == {
        0.45
    }  # equally near


def test_a_probability_equal_to_the_threshold_is_not_predicted():
    truth, probabilities = np.array([[1, 0], [0, 1]]), np.array([[0.9, 0.5], [0.5, 0.9]])
    thresholds = dict.fromkeys(["macro_f1", "micro_f1", "hamming_accuracy", "example_f1"], 0.5)
    assert evaluation.evaluate_predictions(truth, probabilities, thresholds)["hamming_accuracy"] == 1.0
    assert set(thresholds_module.choose_thresholds(truth, probabilities).values()) == {0.5}


@pytest.mark.parametrize("threshold", thresholds_module.THRESHOLD_GRID)
def test_a_probability_equal_to_the_threshold_in_float32_is_not_predicted(threshold):
    """In float64 that number is above the threshold for nine of the nineteen."""
    equal = np.float32(threshold)
    probabilities = np.array([[equal, np.nextafter(equal, np.float32(1))]], np.float32)
    assert thresholds_module.above(probabilities, threshold).tolist() == [[False, True]]
    exact = thresholds_module.as_float32({"micro_f1": threshold})["micro_f1"]
    assert (probabilities.astype(np.float64) > exact).tolist() == [[False, True]]
    labels = np.array([[0, 1]])
    results = evaluation.evaluate_predictions(
        labels, probabilities, dict.fromkeys(thresholds_module.THRESHOLDED_METRICS, threshold)
    )
    assert results["hamming_accuracy"] == results["example_f1"] == 1
    # What is chosen is judged as it was chosen: at the threshold itself label 0 is not given.
    labels, probabilities = np.array([[1, 0], [1, 0]]), np.array([[0.99, equal], [0.98, equal]], np.float32)
    chosen = evaluation.choose_thresholds(labels, probabilities, grid=(threshold, 0.01))
    assert set(chosen.values()) == {threshold}


@pytest.mark.parametrize(
    ("text", "value"), [("validation", "validation"), ("paper", "paper"), ("0.5", 0.5), (".25", 0.25), ("1e-3", 0.001)]
)
def test_parse_threshold(text, value):
    assert thresholds_module.parse_threshold(text) == value


@pytest.mark.parametrize("text", ["", "best", "Paper", "0", "1", "1.5", "-0.5", "nan", "inf", "0,5"])
def test_bad_thresholds_are_refused(text):
    with pytest.raises(
        InputError, match=r"^threshold must be validation, per_label, paper, or a number .* Received: '"
    ):
        thresholds_module.parse_threshold(text)
