import functools

import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.losses.keys import (
    HIDDEN,
    KeyBlock,
    SoftmaxMean,
    Sum,
    ceiling_of_cosines,
    join,
    logits_of,
    softmax_mean,
    with_gradients,
)
from tests.helpers import naive_losses as naive

B, N, D = 4, 12, 3


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(B, N)), rng.normal(size=(N, D)), rng.random((B, N)), rng.normal(size=(N, 2))


def naive_mean(logits, values, factors=None):
    """Σ_p softmax_p(l_ip) f_ip v_p `[B, W]`."""
    factors = np.ones_like(logits) if factors is None else factors
    rows = []
    for row, factor in zip(logits, factors, strict=True):
        odds = [np.exp(logit) for logit in row]
        rows.append(sum(o * f * v for o, f, v in zip(odds, factor, values, strict=True)) / sum(odds))
    return np.array(rows)


@pytest.mark.parametrize("ceiling", [0.0, 7.0])
def test_a_softmax_mean_is_the_naive_loop(ceiling):
    logits, values, factors, others = arrays()
    got = softmax_mean(
        logits - ceiling, values, ceiling=ceiling, further_sums=lambda odds: [odds * factors @ others, odds @ others]
    )
    np.testing.assert_allclose(got.logsumexp, [np.log(np.exp(row).sum()) for row in logits], rtol=1e-13)
    parts = (
        naive_mean(logits, values),
        naive_mean(logits, others, factors),
        naive_mean(logits, others),
    )
    np.testing.assert_allclose(got.mean, np.concatenate(parts, axis=1), rtol=1e-13)


@pytest.mark.parametrize("ends", [(5,), (1, 4, 11)])
@pytest.mark.parametrize("backwards", [False, True])
def test_blocks_join_into_the_whole(ends, backwards):
    logits, values, factors, others = arrays(1)

    def of(part):
        return {
            "mean": softmax_mean(
                logits[:, part],
                values[part],
                ceiling=0.0,
                further_sums=lambda odds: [odds * factors[:, part] @ others[part]],
            ),
            "sum": Sum(tf.constant(factors[:, part] @ others[part])),
        }

    parts = [slice(first, end) for first, end in zip((0, *ends), (*ends, N), strict=True)]
    got = functools.reduce(join, [of(part) for part in (parts[::-1] if backwards else parts)])
    whole = of(slice(0, N))
    for name in whole:
        for one, other in zip(got[name], whole[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12)


def test_far_apart_blocks_join_without_overflow():
    near, far = (
        SoftmaxMean(tf.constant([logsumexp]), tf.constant([[value]]))
        for logsumexp, value in ((800.0, 1.0), (-800.0, 3.0))
    )
    for joined in (near.join(far), far.join(near)):
        assert (float(joined.logsumexp[0]), float(joined.mean[0, 0])) == (800.0, 1.0)
    equal = near.join(SoftmaxMean(near.logsumexp, tf.constant([[3.0]])))
    np.testing.assert_allclose(equal.mean, [[2.0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("temperature", [0.01, 0.049, 0.05, 0.1, 2.0])
def test_hidden_keys_count_for_nothing_and_cosines_never_overflow(temperature, dtype):
    """With the ceiling for a maximum, opposite rows too: the odds of a row are then all near exp(−2 / τ)."""
    rng = np.random.default_rng(2)
    keys = rng.normal(size=(9, D))
    keys[:, 0] = np.abs(keys[:, 0]) + 20  # all on one side
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    queries = np.concatenate([-keys[:1], keys[1:2], np.eye(D)])
    keys[6:] = 50.0  # what lies in an empty slot
    ceiling = ceiling_of_cosines(temperature)
    bias = tf.constant([0.0] * 6 + [HIDDEN] * 3, dtype)
    block = KeyBlock(tf.constant(keys, dtype), None, None, bias)
    logits = logits_of(tf.constant(queries / temperature, dtype), block, ceiling)
    got = softmax_mean(logits, block.embeddings, ceiling=ceiling)
    logits = queries @ keys[:6].T / temperature
    rtol = 1e-12 if dtype == "float64" else 2e-5
    np.testing.assert_allclose(got.logsumexp, np.log(np.exp(logits).sum(1)), rtol=rtol, atol=rtol)
    softmax = np.exp([naive.log_softmax(row) for row in logits])
    np.testing.assert_allclose(got.mean, softmax @ keys[:6], rtol=10 * rtol, atol=rtol)


def test_the_ceiling_is_no_lower_than_any_logit_and_keeps_the_odds_of_opposite_rows_in_float32():
    for temperature in np.geomspace(1e-3, 10, 200):
        ceiling = ceiling_of_cosines(temperature)
        assert ceiling in (0.0, 1 / temperature)
        if ceiling:
            odds = np.exp(np.float32(-1 / temperature - ceiling))
            assert odds > 1e6 * np.finfo(np.float32).tiny
    assert ceiling_of_cosines(0.1) == 10.0  # the published temperature saves two passes
    assert ceiling_of_cosines(0.01) == 0.0


def test_a_row_of_which_every_key_is_hidden_is_finite_where_the_maximum_is_looked_for():
    got = softmax_mean(tf.fill((1, 3), HIDDEN), tf.ones((3, 2)), ceiling=0.0)
    assert np.isfinite(got.logsumexp).all()
    assert np.isfinite(got.mean).all()


def test_a_value_is_given_its_gradients():
    rng = np.random.default_rng(3)
    value, first, second = rng.normal(size=B), rng.normal(size=(B, D)), rng.normal(size=(B, 2))
    slopes = [tf.Variable(rng.normal(size=rows.shape)) for rows in (first, second)]
    variables = [tf.Variable(rows) for rows in (first, second)]
    source = tf.Variable(value)
    with tf.GradientTape(persistent=True) as tape:
        got = with_gradients(source, *zip(variables, slopes, strict=True))
        total = tf.reduce_sum(got * tf.constant([1.0, 2.0, 3.0, 4.0], got.dtype))
    np.testing.assert_array_equal(got, value)
    for variable, slope in zip(variables, slopes, strict=True):
        np.testing.assert_allclose(tape.gradient(total, variable), slope * [[1.0], [2.0], [3.0], [4.0]], rtol=1e-15)
    assert tape.gradient(total, [source, *slopes]) == [None] * 3
