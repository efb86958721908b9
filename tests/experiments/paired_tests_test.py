import itertools
import math

import numpy as np
import pytest
import scipy.stats

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
