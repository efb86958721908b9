import pathlib

import numpy as np
import pytest

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.input_pipeline.batches import training_batches
from mulsupcon_tf.input_pipeline.feed import training_feed
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_file_sets import write_image_files
from tests.helpers.tiny_datasets import SIZES, tiny_vectors

BATCH, SEED = 16, 5


def config(**settings):
    return TrainingConfig(**{"batch_size": BATCH, "seed": SEED} | settings)


def next_of(stream):
    return [np.asarray(part) for part in next(iter(stream))]


def test_the_batches_are_those_of_the_settings_from_any_step():
    dataset = tiny_vectors()
    feed = training_feed(dataset, config(augmentation="mask", mask_rate=0.3), num_views=1, shard=(1, 2))
    common = {"batch_size": BATCH, "num_views": 1, "augmentation": "mask", "image_size": None, "seed": SEED}
    expected = training_batches(dataset, **common, mask_rate=0.3, first_step=7, shard=(1, 2))
    for got in (feed.batches_from(7), [feed.batch(7)]):
        for one, other in zip(next_of(expected), next_of(got), strict=True):
            np.testing.assert_array_equal(one, other)
    assert feed.steps_per_epoch == SIZES["train"] // BATCH


@pytest.mark.parametrize("rate", [0.0, None])
def test_without_a_mask_the_samples_are_as_they_are_stored(rate):
    dataset = tiny_vectors()
    feed = training_feed(dataset, config(augmentation="mask", mask_rate=rate), num_views=1)
    samples, labels = next_of(feed.batches_from(3))
    np.testing.assert_array_equal(samples, feed.inputs_of(3, 1))
    rows = [
        next(row for row, each in enumerate(dataset.splits["train"].inputs) if (each == one).all()) for one in samples
    ]
    np.testing.assert_array_equal(labels, dataset.splits["train"].labels[rows])
    assert feed.describe_batch(3) == f"train rows {', '.join(map(str, rows[:5]))}, ..."


def test_a_broken_image_in_the_batch_that_is_asked_for_is_named(tmp_path):
    dataset = write_image_files(tmp_path)
    feed = training_feed(dataset, config(batch_size=8, augmentation="crop", image_size=16), num_views=2)
    (broken,) = feed.inputs_of(1, 1).paths[:1]
    pathlib.Path(broken).write_bytes(b"GIF89a")
    with pytest.raises(InputError, match="each image must be a whole JPEG") as raised:
        feed.batch(1)
    assert broken in str(raised.value)
