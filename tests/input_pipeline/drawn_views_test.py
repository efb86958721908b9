import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.fixed_views import FixedViews
from mulsupcon_tf.input_pipeline.batches import training_batches
from mulsupcon_tf.input_pipeline.drawn_views import draw_views
from mulsupcon_tf.input_pipeline.sampling_order import SamplingOrder
from tests.helpers.tiny_datasets import tiny_vectors

ORDER = SamplingOrder(num_samples=4000, batch_size=2000, num_batches=2, seed=5, first=0, count=2000)


@pytest.mark.parametrize("num_fixed", [2, 3, 8])
def test_two_views_are_never_the_same_and_all_pairs_come_as_often(num_fixed):
    draws = [np.stack(draw_views(num_fixed, 2, ORDER, tf.constant(step))) for step in range(20)]
    first, second = np.concatenate(draws, axis=1)
    assert not (first == second).any()
    counts = np.zeros((num_fixed, num_fixed))
    np.add.at(counts, (first, second), 1)
    pairs = counts[~np.eye(num_fixed, dtype=bool)]
    expected = len(first) / len(pairs)
    assert np.abs(pairs - expected).max() < 5 * np.sqrt(expected)


def test_what_is_drawn_depends_on_seed_and_step_alone():
    other = SamplingOrder(num_samples=4000, batch_size=2000, num_batches=2, seed=6, first=1000, count=1000)
    (first,) = draw_views(4, 1, ORDER, tf.constant(7))
    np.testing.assert_array_equal(first, draw_views(4, 2, ORDER, tf.constant(7))[0])
    for changed in (draw_views(4, 1, ORDER, tf.constant(8))[0], draw_views(4, 1, other, tf.constant(7))[0]):
        assert (changed.numpy() == first.numpy()).mean() == pytest.approx(1 / 4, abs=0.05)


def batches(num_views, count, **options):
    """Batches of samples whose view v is (n, v), and whose label is n mod 2."""
    numbers = np.arange(20, dtype=np.float32)
    views = tuple(np.stack([numbers, np.full_like(numbers, view)], axis=1) for view in range(3))
    labels = np.stack([numbers % 2, 1 - numbers % 2], 1).astype(np.uint8)
    split = Split(views[0], labels, views=FixedViews.of(views))
    dataset = MultiLabelDataset("numbered", "vector", ("odd", "even"), {"train": split})
    settings = {"batch_size": 8, "augmentation": "mask", "mask_rate": 0.0, "image_size": None, "seed": 0}
    stream = training_batches(dataset, num_views=num_views, **settings | options)
    return [tuple(map(np.asarray, batch)) for batch in itertools.islice(stream, count)]


@pytest.mark.parametrize("num_views", [1, 2])
def test_a_batch_has_views_of_its_samples_and_is_the_same_where_a_run_goes_on(num_views):
    whole = batches(num_views, 6)
    for views, labels in whole:
        numbers = views.reshape(num_views, 8, 2)
        assert (numbers[:, :, 0] == numbers[0, :, 0]).all()
        np.testing.assert_array_equal(numbers[0, :, 0] % 2, labels[:, 0])
    assert {*np.stack([views for views, _ in whole])[..., 1].ravel()} == {0, 1, 2}
    for late, early in zip(batches(num_views, 2, first_step=4), whole[4:], strict=True):
        np.testing.assert_array_equal(late[0], early[0])
        np.testing.assert_array_equal(late[1], early[1])


def test_the_shards_together_are_the_unsharded_batch():
    shards = [batches(2, 3, shard=(worker, 2)) for worker in range(2)]
    for step, (views, _) in enumerate(batches(2, 3)):
        np.testing.assert_array_equal(np.concatenate([shard[step][0] for shard in shards], axis=1), views)


@pytest.mark.parametrize("num_views", [1, 2])
def test_a_single_view_gives_the_batches_of_the_samples_themselves(num_views):
    dataset = tiny_vectors()
    train = dataset.splits["train"]
    viewed = dataclasses.replace(train, views=FixedViews.of((train.inputs,)))
    settings = {"batch_size": 8, "num_views": num_views, "augmentation": "mask", "image_size": None, "seed": 2}
    streams = [
        training_batches(dataclasses.replace(dataset, splits={"train": split}), **settings) for split in (train, viewed)
    ]
    for one, other in itertools.islice(zip(*streams, strict=True), 3):
        np.testing.assert_array_equal(np.asarray(one[0]), np.asarray(other[0]))
        np.testing.assert_array_equal(one[1], other[1])


def test_masks_hide_features_of_views_too():
    ((views, _),) = batches(1, 1, mask_rate=1.0)
    np.testing.assert_array_equal(views, np.tile([[9.5, 0.0]], (8, 1)))  # the mean of the samples themselves
