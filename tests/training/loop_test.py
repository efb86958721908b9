import numpy as np
import pytest

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline.batches import training_batches
from mulsupcon_tf.training import bad_steps
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors

ORDER = {"batch_size": 8, "seed": 3}


def rows_of(dataset, step):
    """The rows of a step, found in the batch itself: no two samples are alike."""
    stream = training_batches(dataset, num_views=1, augmentation=None, image_size=None, first_step=step, **ORDER)
    samples, inputs = next(iter(stream))[0].numpy(), dataset.splits["train"].inputs
    return [next(row for row, each in enumerate(inputs) if np.array_equal(each, sample)) for sample in samples]


@pytest.mark.parametrize("step", [0, 11])
def test_the_first_samples_of_a_batch_are_named_by_their_rows(step):
    dataset = tiny_images()
    rows = ", ".join(map(str, rows_of(dataset, step)[:5]))
    assert bad_steps.describe_batch(dataset, step, **ORDER) == f"train rows {rows}, ..."


def test_samples_that_are_not_finite_are_named_instead():
    dataset = tiny_vectors()
    rows = rows_of(dataset, 11)
    for row, value in ((rows[2], np.nan), (rows[6], -np.inf), (next(iter(set(range(64)) - set(rows))), np.nan)):
        dataset.splits["train"].inputs[row, 1] = value
    expected = f"train rows {rows[2]}, {rows[6]}, which are not finite"
    assert bad_steps.describe_batch(dataset, 11, **ORDER) == expected


def test_image_files_are_named_by_their_paths():
    images = tiny_images()
    rows = rows_of(images, 2)
    splits = {
        name: Split(ImageFiles(np.array([f"{name}/{row}.jpg" for row in range(len(split))], object)), split.labels)
        for name, split in images.splits.items()
    }
    dataset = MultiLabelDataset("csv", "image", images.label_names, splits)
    expected = ", ".join(f"train/{row}.jpg" for row in rows[:5])
    assert bad_steps.describe_batch(dataset, 2, **ORDER) == f"train images {expected}, ..."


def test_the_message_is_one_line_with_the_rule_and_what_happened():
    with pytest.raises(InputError) as raised:
        bad_steps.stop(10, 41, "train rows 7, which are not finite")
    message = str(raised.value)
    assert "\n" not in message
    assert "Received: 10 bad steps in a row from step 42 on, whose batch has train rows 7, which are not f" in message
    with pytest.raises(InputError, match=r"from step 42 on$"):
        bad_steps.stop(10, 41, "")
