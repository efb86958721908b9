import numpy as np
import pytest
import tensorflow as tf
from mulsupcon_tf.losses.methods import shares

from mulsupcon_tf.losses.method import count

LABELS = tf.constant([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]], tf.float32)


def test_counts_are_those_of_a_loop():
    rows = LABELS.numpy()
    assert [float(number) for number in count(LABELS)] == [
        5,
        sum(row.any() for row in rows),
        sum(row.sum() for row in rows),
    ]


def test_the_shares_of_the_parts_are_1_together_and_those_of_the_whole_are_1():
    parts = [[float(share) for share in shares(part, count(LABELS))] for part in (LABELS[:2], LABELS[2:3], LABELS[3:])]
    np.testing.assert_allclose(np.sum(parts, axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(parts[0], [2 / 5, 1 / 3, 2 / 6], rtol=1e-6)
    assert shares(LABELS, None) == (1.0, 1.0, 1.0)


def test_a_batch_without_labels_has_shares_of_0_in_what_it_lacks():
    share = shares(0 * LABELS[:1], count(0 * LABELS))
    assert [float(each) for each in share] == [pytest.approx(0.2), 0.0, 0.0]
