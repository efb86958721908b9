import itertools

import numpy as np
import pytest
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import cosine_similarity

from mulsupcon_tf.evaluation import neighbour_mixture
from mulsupcon_tf.evaluation.neighbour_mixture import Mixture, choose_mixture
from mulsupcon_tf.evaluation.neighbours import nearest_rows
from mulsupcon_tf.utils.tensors import labels_of_neighbours, within_floor


def problem(seed, *, informed=True):
    """Labels that follow the direction of the rows, where these are informed, and a classifier that half knows."""
    rng = np.random.default_rng(seed)
    bank, rows = rng.normal(size=(60, 4)), rng.normal(size=(40, 4))
    direction = rng.normal(size=(4, 3))
    bank_labels, labels = ((part @ direction > 0).astype(np.int8) for part in (bank, rows))
    if not informed:
        bank_labels = rng.permutation(bank_labels)
    probabilities = np.clip(0.5 * labels + rng.random(labels.shape), 0, 1.5) / 1.5
    return labels, probabilities, rows, bank, bank_labels


def naive_score(labels, probabilities, spaces, bank_labels, mixture):
    near = np.zeros_like(probabilities)
    for rows, bank in spaces:
        cosines = cosine_similarity(rows, bank)
        for sample, row in enumerate(cosines):
            nearest = np.argsort(-row, kind="stable")[: mixture.num_neighbours]
            weights = np.exp(row[nearest] / mixture.temperature)
            near[sample] += weights / weights.sum() @ bank_labels[nearest] / len(spaces)
    size = len(bank_labels)
    near = (size * near + 0.5) / (size + 1)
    mixed = (1 - mixture.share) * probabilities + mixture.share * near
    return np.mean([average_precision_score(labels[:, label], mixed[:, label]) for label in range(labels.shape[1])])


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_best_of_all_on_validation(seed, monkeypatch):
    monkeypatch.setattr(neighbour_mixture, "NUM_NEIGHBOURS", (5, 20, 200))
    labels, probabilities, rows, bank, bank_labels = problem(seed)
    spaces = [(rows, bank), (rows[:, :2], bank[:, :2])]
    chosen = choose_mixture(labels, probabilities, spaces, bank_labels)
    every = itertools.product((5, 20, 60), neighbour_mixture.TEMPERATURES, neighbour_mixture.SHARES)
    scores = {one: naive_score(labels, probabilities, spaces, bank_labels, Mixture(*one)) for one in every}
    assert chosen.share > 0
    assert scores[chosen[:3]] == pytest.approx(max(scores.values()), abs=1e-6)
    assert chosen.floor == 1 / (2 * 61)  # half a sample of the bank and one more
    assert scores[chosen[:3]] > naive_score(labels, probabilities, spaces, bank_labels, Mixture(1, 1.0, 0.0))


def test_neighbours_that_know_nothing_are_left_out():
    labels, _, rows, bank, bank_labels = problem(2, informed=False)
    perfect = labels * 0.9 + 0.05
    assert choose_mixture(labels, perfect, [(rows, bank)], bank_labels).share == 0


def test_no_more_neighbours_are_asked_than_there_are():
    labels, probabilities, rows, bank, bank_labels = problem(4)
    chosen = choose_mixture(labels, probabilities, [(rows, bank[:7])], bank_labels[:7])
    assert chosen.num_neighbours <= 7


def test_the_labels_of_some_hundred_neighbourhoods_are_in_memory_and_what_they_say_is_the_same_to_the_bit(monkeypatch):
    """For 20,000 samples and 500 labels, those of all 200 neighbours would be 8 GB."""
    rng = np.random.default_rng(5)
    rows, bank = (rng.normal(size=(count, 8)).astype(np.float32) for count in (600, 90))
    labels, bank_labels = ((part[:, :5] > 0.3).astype(np.uint8) for part in (rows, bank))
    sizes, mixed = [], []

    def measured(cosines, nearest, *others):
        sizes.append(len(nearest))
        return labels_of_neighbours(cosines, nearest, *others)

    monkeypatch.setattr(neighbour_mixture, "labels_of_neighbours", measured)
    monkeypatch.setattr(neighbour_mixture, "mean_average_precision", lambda _, scores: mixed.append(scores) or 0.0)
    choose_mixture(labels, np.zeros((600, 5), np.float32), [(rows, bank)], bank_labels)

    cosines, nearest = (np.concatenate(each) for each in list(zip(*nearest_rows(rows, bank, 90), strict=True))[1:])
    expected = [
        np.array(
            labels_of_neighbours(cosines[:, :count], nearest[:, :count], bank_labels.astype(np.float32), temperature)
        )
        for count in (20, 50, 90)
        for temperature in neighbour_mixture.TEMPERATURES
    ]
    whole = mixed[len(neighbour_mixture.SHARES) :: len(neighbour_mixture.SHARES)]  # after the classifier alone; share 1
    np.testing.assert_array_equal(whole, [within_floor(each, 1 / (2 * 91)) for each in expected])
    assert max(sizes) <= 256
