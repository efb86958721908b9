"""Paired differences over seeds, with tests that hold for few of them."""

import dataclasses
import functools
import statistics
from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
EXACT_PAIRS = 16  # 2^16 patterns of signs take 0.3 s; each pair more doubles that
DRAWN_PATTERNS = 99_999
# Differences are whole multiples of that: tables hold six decimals. Binary fractions are not, and of two differences of 0.0025
# one is larger by its rounding, so that patterns of signs that are level with what was seen would fall short of it.
_UNIT = 1e-9


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """How much higher a method scores than a baseline that shares its seeds.

    Attributes:
        pairs: number of seeds.
        mean: mean difference.
        deviation: sample standard deviation of the differences; NaN for one pair.
        low: lower end of the 95% interval by Student's t, which takes differences for normal; NaN for one pair.
        high: its upper end.
        t_p: two-sided p of the paired t test; NaN for one pair.
        sign_flip_p: two-sided p of the permutation test that flips the sign of each difference; it takes nothing for
            granted but that a pair could as well have been the other way round. Of at most `EXACT_PAIRS` pairs it is exact,
            of more it is of `DRAWN_PATTERNS` patterns of signs, always the same.
    """

    pairs: int
    mean: float
    deviation: float
    low: float
    high: float
    t_p: float
    sign_flip_p: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def deviation_of(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def smallest_sign_flip_p(pairs: int) -> float:
    """The least p that the sign-flip test can give: all differences of one sign, 2 of 2^n patterns; 1/16 for 5 pairs.

    Of drawn patterns the one that was seen counts among them, at both ends.
    """
    return min(1.0, 2.0 ** (1 - pairs)) if pairs <= EXACT_PAIRS else 2 / (DRAWN_PATTERNS + 1)


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """Compares a method with a baseline, seed by seed.

    Args:
        values: of the method, one for each seed.
        baseline: of the baseline, the same seeds in the same order.
    """
    units = np.rint(np.subtract(values, baseline) / _UNIT)
    differences = units * _UNIT
    pairs, mean = len(differences), float(np.mean(differences))
    if pairs == 1:
        return PairedDifference(pairs, mean, np.nan, np.nan, np.nan, np.nan, 1.0)
    deviation, flipped = statistics.stdev(differences.tolist()), _sign_flip_p(tuple(units.tolist()))
    if deviation == 0:  # Student's t has no meaning; equal methods are equal
        t_p = 1.0 if mean == 0 else 0.0
        return PairedDifference(pairs, mean, 0.0, mean, mean, t_p, flipped)
    test = stats.ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return PairedDifference(
        pairs, mean, deviation, float(interval.low), float(interval.high), float(test.pvalue), flipped
    )


@functools.cache  # a document shows the same differences several times
def _sign_flip_p(units: tuple[float, ...]) -> float:
    test = stats.permutation_test(
        (np.array(units),),
        np.sum,  # exact, of whole numbers
        permutation_type="samples",
        n_resamples=np.inf if len(units) <= EXACT_PAIRS else DRAWN_PATTERNS,
        batch=1000,
        vectorized=True,
        random_state=0,  # SciPy before 1.15 knows no `rng`
    )
    return float(test.pvalue)
