import numpy as np
import pytest

from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.datasets.splitting import finish_dataset, split_off
from mulsupcon_tf.errors import InputError


def numbered(count):
    """Samples that carry their own number in input, labels and distribution."""
    labels = np.stack([np.arange(count) % 2, np.arange(count) % 2 == 0], axis=1).astype(np.uint8)
    return Split(np.arange(count, dtype=np.float32)[:, None], labels, labels.astype(np.float32))


@pytest.mark.parametrize(("count", "fraction", "drawn"), [(10, 0.2, 2), (11, 0.25, 3), (2, 0.2, 1), (1000, 0.2, 200)])
def test_every_sample_lands_on_one_side_and_keeps_its_labels_and_order(count, fraction, drawn):
    rest, part = split_off(numbered(count), fraction, seed=3)

    assert len(part) == drawn
    assert sorted([*rest.inputs[:, 0], *part.inputs[:, 0]]) == list(range(count))
    for side in (rest, part):
        assert list(side.inputs[:, 0]) == sorted(side.inputs[:, 0])
        np.testing.assert_array_equal(side.labels[:, 0], side.inputs[:, 0] % 2)
        np.testing.assert_array_equal(side.distributions, side.labels)


def test_the_draw_depends_on_its_seed_and_on_nothing_else():
    np.random.seed(1)
    first = split_off(numbered(100), 0.2, seed=0)[1].inputs
    np.random.seed(2)

    np.testing.assert_array_equal(first, split_off(numbered(100), 0.2, seed=0)[1].inputs)
    assert not np.array_equal(first, split_off(numbered(100), 0.2, seed=1)[1].inputs)


def test_missing_splits_are_carved_from_train():
    dataset = finish_dataset("mine", "vector", ("odd", "even"), {"train": numbered(100)}, seed=0)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 60, "validation": 15, "test": 25}
    numbers = np.concatenate([split.inputs[:, 0] for split in dataset.splits.values()])
    assert sorted(numbers) == list(range(100))


def test_given_splits_stay_as_they_are():
    parts = {"train": numbered(50), "validation": numbered(7), "test": numbered(9)}
    assert finish_dataset("mine", "vector", ("odd", "even"), parts, seed=0).splits == parts


def test_a_single_sample_cannot_be_divided():
    with pytest.raises(InputError, match=r"at least one sample. Received: 0 in split 'train'"):
        finish_dataset("mine", "vector", ("odd", "even"), {"train": numbered(1), "test": numbered(4)}, seed=0)
