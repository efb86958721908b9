import itertools
import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from mulsupcon_tf.experiments import paired_tests
from mulsupcon_tf.experiments.markdown import what_pairs_can_show
from mulsupcon_tf.experiments.paired_tests import paired_difference, smallest_sign_flip_p


def naive_sign_flip_p(differences):
    """Share of all sign patterns whose mean is at least as far from zero as the one that was seen."""
    seen = abs(sum(differences))
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    far = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= seen - 1e-12 for signs in patterns]
    return sum(far) / len(patterns)


@pytest.mark.parametrize("pairs", [2, 3, 5, 8])
@pytest.mark.parametrize("seed", range(3))
def test_sign_flip_p_equals_the_enumeration_of_all_patterns(pairs, seed):
    rng = np.random.default_rng(seed)
    values, baseline = rng.normal(0.3, 1, pairs), rng.normal(0, 1, pairs)
    expected = naive_sign_flip_p(values - baseline)
    assert paired_difference(values, baseline).sign_flip_p == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [2, 3, 5])
def test_mean_interval_and_t_are_those_of_scipys_paired_test(pairs):
    rng = np.random.default_rng(pairs)
    values, baseline = rng.normal(1, 1, pairs), rng.normal(0, 1, pairs)
    found = paired_difference(values, baseline)
    test = scipy.stats.ttest_rel(values, baseline)
    half = scipy.stats.t.ppf(0.975, pairs - 1) * np.std(values - baseline, ddof=1) / math.sqrt(pairs)
    assert found.mean == pytest.approx(np.mean(values - baseline))
    assert found.deviation == pytest.approx(np.std(values - baseline, ddof=1))
    assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
    assert found.t_p == pytest.approx(test.pvalue)
    assert found.clear == (test.pvalue < 0.05)


@pytest.mark.parametrize(
    ("right", "right_of_baseline"),
    [
        ([245, 241, 245, 245], [244, 245, 246, 240]),
        ([245, 245, 241], [242, 246, 240]),
        ([244, 244, 242, 246, 240], [244, 245, 245, 243, 242]),
        ([242, 244, 246], [240, 242, 244]),
    ],
)
def test_differences_of_counts_are_level_with_each_other_though_binary_fractions_are_not(right, right_of_baseline):
    """As of precision@1 on 400 test samples: 245/400 − 244/400 is not 241/400 − 240/400."""
    found = paired_difference(np.divide(right, 400), np.divide(right_of_baseline, 400))
    counts = np.subtract(right, right_of_baseline).tolist()
    assert found.sign_flip_p == naive_sign_flip_p(counts)
    assert found.mean == pytest.approx(np.mean(counts) / 400)
    assert found.deviation == pytest.approx(np.std(counts, ddof=1) / 400, abs=0 if len(set(counts)) == 1 else 1e-9)


@pytest.mark.parametrize("pairs", [1, 2, 3, 5, 7])
def test_the_smallest_sign_flip_p_is_that_of_differences_of_one_sign(pairs):
    differences = np.arange(1.0, pairs + 1)
    assert paired_difference(differences, np.zeros(pairs)).sign_flip_p == pytest.approx(smallest_sign_flip_p(pairs))


def test_five_pairs_never_give_a_sign_flip_p_below_one_sixteenth():
    assert smallest_sign_flip_p(5) == 1 / 16


def test_one_pair_has_a_difference_and_no_interval():
    found = paired_difference([0.5], [0.25])
    assert found.mean == 0.25 and found.sign_flip_p == 1 and not found.clear
    assert all(math.isnan(value) for value in (found.deviation, found.low, found.high, found.t_p))


def test_equal_values_differ_by_nothing_at_all():
    found = paired_difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (found.mean, found.deviation, found.t_p, found.sign_flip_p) == (0, 0, 1, 1) and not found.clear


@pytest.mark.parametrize("pairs", [17, 24])
def test_many_pairs_take_little_memory_and_always_give_the_same_p(pairs):
    values = np.random.default_rng(pairs).normal(0.4, 1, pairs)
    tracemalloc.start()
    found = paired_difference(values, np.zeros(pairs)).sign_flip_p
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    paired_tests._sign_flip_p.cache_clear()
    assert paired_difference(values, np.zeros(pairs)).sign_flip_p == found
    # Of as many pairs the mean under flipped signs is nearly normal.
    expected = 2 * scipy.stats.norm.sf(abs(values.sum()) / math.sqrt((values**2).sum()))
    assert found == pytest.approx(expected, rel=0.15, abs=2e-3)


def test_the_p_of_drawn_patterns_is_near_the_exact_one(monkeypatch):
    values = np.random.default_rng(3).normal(0.4, 1, 12)
    exact = paired_difference(values, np.zeros(12)).sign_flip_p
    monkeypatch.setattr(paired_tests, "EXACT_PAIRS", 8)
    monkeypatch.setattr(paired_tests, "DRAWN_PATTERNS", 3000)
    paired_tests._sign_flip_p.cache_clear()
    drawn = paired_difference(values, np.zeros(12)).sign_flip_p
    paired_tests._sign_flip_p.cache_clear()
    assert drawn != exact and drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 3000))


def test_the_least_p_of_drawn_patterns_is_theirs():
    assert paired_difference(np.arange(1.0, 41), np.zeros(40)).sign_flip_p == smallest_sign_flip_p(40) == 2 / 100_000


def test_the_table_says_where_the_p_is_of_drawn_patterns():
    assert what_pairs_can_show(16) == "The sign-flip test of 16 pairs cannot go below p = 3.05e-05."
    assert "17 pairs is of 100,000 patterns of signs, drawn" in what_pairs_can_show(17)
    assert "below p = 2e-05." in what_pairs_can_show(17)
