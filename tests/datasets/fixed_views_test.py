import numpy as np
import pytest

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.fixed_views import FixedViews
from mulsupcon_tf.datasets.splitting import with_share_of_train, with_true_distributions_as_labels, with_whole_train


def numbered(first, count, num_views=3):
    """View v of sample n is (n, v); the label of a sample is n mod 2."""
    numbers = np.arange(first, first + count, dtype=np.float32)
    views = tuple(np.stack([numbers, np.full_like(numbers, view)], axis=1) for view in range(num_views))
    labels = np.stack([numbers % 2, 1 - numbers % 2], 1).astype(np.uint8)
    return Split(views[0], labels, labels.astype(np.float32), FixedViews.of(views))


def dataset():
    splits = {"train": numbered(0, 20), "validation": numbered(20, 6), "test": numbered(26, 4)}
    return MultiLabelDataset("numbered", "vector", ("odd", "even"), splits)


def assert_views_are_those_of_the_samples(split):
    rows = np.random.default_rng(0).permutation(len(split))
    for number in range(3):
        read = split.views.read(rows, np.full(len(rows), number))
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, np.stack([split.inputs[rows, 0], np.full(len(rows), number)], 1))


@pytest.mark.parametrize("rows", [slice(3, 9), np.array([7, 1, 1]), np.arange(20) % 3 == 0])
def test_samples_that_are_picked_out_keep_their_views(rows):
    picked = numbered(0, 20)[rows]
    assert picked.views.number == 3
    assert_views_are_those_of_the_samples(picked)
    assert_views_are_those_of_the_samples(picked[::-1])


def test_each_sample_can_be_read_in_another_view():
    read = numbered(0, 20).views.read(np.array([5, 3, 5, 0]), np.array([2, 0, 1, 2]))
    np.testing.assert_array_equal(read, [[5, 2], [3, 0], [5, 1], [0, 2]])


def test_what_is_made_of_train_keeps_the_views():
    whole = with_whole_train(dataset())
    assert len(whole.splits["train"]) == 26
    assert_views_are_those_of_the_samples(whole.splits["train"])
    share = with_share_of_train(whole, 0.5, seed=1)
    assert len(share.splits["train"]) == 13
    assert_views_are_those_of_the_samples(share.splits["train"])
    assert_views_are_those_of_the_samples(with_true_distributions_as_labels(share).splits["train"])


def test_nothing_is_copied_before_it_is_read():
    views = with_share_of_train(with_whole_train(dataset()), 0.5, seed=1).splits["train"].views
    assert [len(part[0]) for part in views.parts] == [20, 6]
