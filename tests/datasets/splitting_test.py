import numpy as np
import pytest

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import (
    finish_dataset,
    require_true_distributions,
    split_off,
    stratified_share,
    with_share_of_train,
    with_true_distributions_as_labels,
)
from mulsupcon_tf.errors import InputError


def numbered(count, first=0):
    """Samples that carry their own number in input, labels and distribution."""
    labels = np.stack([np.arange(count) % 2, np.arange(count) % 2 == 0], axis=1).astype(np.uint8)
    return Split(np.arange(first, first + count, dtype=np.float32)[:, None], labels, labels.astype(np.float32))


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
    parts = {"train": numbered(50), "validation": numbered(7, first=50), "test": numbered(9, first=57)}
    assert finish_dataset("mine", "vector", ("odd", "even"), parts, seed=0).splits == parts


def test_a_single_sample_cannot_be_divided():
    with pytest.raises(InputError, match=r"at least one sample. Received: 0 in split 'train'"):
        finish_dataset("mine", "vector", ("odd", "even"), {"train": numbered(1), "test": numbered(4)}, seed=0)


@pytest.mark.parametrize("fraction", [0.03, 0.1, 0.5, 0.9, 1.0])
def test_a_stratified_share_keeps_every_label_of_a_real_set_in_proportion(shared_data, fraction):
    train = load_dataset("yeast", data_dir=str(shared_data / "mulan")).splits["train"]
    kept = stratified_share(train, fraction, seed=1)

    assert len(kept) == round(fraction * len(train))
    off = np.abs(kept.labels.sum(axis=0) - fraction * train.labels.sum(axis=0))
    drawn = np.random.default_rng(1).permutation(len(train))[: len(kept)]
    off_by_chance = np.abs(train.labels[drawn].sum(axis=0) - fraction * train.labels.sum(axis=0))
    assert off.max() <= 8 and off.mean() <= max(1, off_by_chance.mean() / 2)
    assert kept.labels.any(axis=0)[train.labels.sum(axis=0) * fraction >= 1].all()


def test_a_stratified_share_keeps_samples_whole_and_in_order_and_follows_the_seed():
    whole = numbered(60)
    first, again, other = (stratified_share(whole, 0.3, seed) for seed in (0, 0, 1))
    rows = first.inputs[:, 0].astype(int)
    assert (np.diff(rows) > 0).all() and len(rows) == 18
    np.testing.assert_array_equal(first.labels, whole.labels[rows])
    np.testing.assert_array_equal(first.distributions, whole.distributions[rows])
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.inputs.tolist() != other.inputs.tolist()


def test_samples_without_labels_fill_a_stratified_share_up():
    labels = np.zeros((50, 2), np.uint8)
    labels[:10, 0] = 1
    kept = stratified_share(Split(np.arange(50, dtype=np.float32)[:, None], labels), 0.4, seed=0)
    assert len(kept) == 20 and kept.labels[:, 0].sum() == 4


def test_a_share_of_train_leaves_validation_and_test_whole(shared_data):
    dataset = load_dataset("scene", data_dir=str(shared_data / "mulan"))
    less = with_share_of_train(dataset, 0.1, seed=0)
    assert {name: len(split) for name, split in less.splits.items()} == {"train": 97, "validation": 242, "test": 1196}
    assert less.splits["test"] is dataset.splits["test"]


def test_true_distributions_as_labels_are_above_0_on_just_the_labels_there_are():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], np.uint8)
    truth = np.array([[0.6, 0.3, 0.1], [1, 0, 0], [0, 0, 0], [0.75, 0.25, 0]], np.float32)
    train = Split(np.zeros((4, 2), np.float32), labels, truth)
    dataset = MultiLabelDataset("npz", "vector", ("a", "b", "c"), {"train": train, "validation": train, "test": train})
    require_true_distributions(dataset)
    fed = with_true_distributions_as_labels(dataset)
    expected = np.array([[0.6, 0.3, 0], [1, 0, 0], [0, 0, 0], [0.75, 0.25, 1e-6]], np.float32)
    np.testing.assert_array_equal(fed.splits["train"].labels, expected)
    assert fed.splits["test"] is train
    assert fed.splits["train"].inputs is train.inputs


def test_a_dataset_without_the_truth_is_refused():
    train = Split(np.zeros((4, 2), np.float32), np.ones((4, 3), np.uint8))
    dataset = MultiLabelDataset(
        "scene", "vector", ("a", "b", "c"), {"train": train, "validation": train, "test": train}
    )
    with pytest.raises(InputError, match=r"^--method=truth needs a dataset with true label distributions, .*=scene, "):
        require_true_distributions(dataset)
