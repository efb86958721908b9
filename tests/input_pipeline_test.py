import itertools

import numpy as np
import pytest

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.encoder import build_backbone
from mulsupcon_tf.errors import InputError
from mulsupcon_tf.input_pipeline import evaluation_batches, model_input_shape, steps_per_epoch, training_batches
from tests.tiny_datasets import IMAGE_SHAPE, tiny_images, tiny_vectors

BATCH = 8


def numbered(count):
    """Sample n has the features (n, -n) and the label n mod 2."""
    numbers = np.arange(count, dtype=np.float32)
    split = Split(np.stack([numbers, -numbers], 1), np.stack([numbers % 2, 1 - numbers % 2], 1).astype(np.uint8))
    return MultiLabelDataset(
        "numbered", "vector", ("odd", "even"), dict.fromkeys(("train", "validation", "test"), split)
    )


def batches(dataset, count, *, first_step=0, seed=0, batch_size=BATCH, num_views=1, augmentation=None, image_size=None):
    stream = training_batches(
        dataset, batch_size=batch_size, num_views=num_views, augmentation=augmentation, image_size=image_size,
        seed=seed, first_step=first_step,
    )  # fmt: skip
    return [tuple(map(np.asarray, batch)) for batch in itertools.islice(stream, count)]


def order(count, steps, **options):
    return np.concatenate([inputs[:, 0] for inputs, _ in batches(numbered(count), steps, **options)]).astype(int)


@pytest.mark.parametrize("count", [8, 40, 64])
def test_an_epoch_holds_every_sample_once_and_the_next_in_another_order(count):
    steps = count // BATCH
    seen = order(count, 3 * steps).reshape(3, count)
    for epoch in seen:
        assert sorted(epoch) == list(range(count))
    assert not (seen[0] == seen[1]).all()
    assert not (seen[1] == seen[2]).all()
    assert not (seen[0] == np.arange(count)).all()


def test_where_the_batch_does_not_divide_the_split_no_sample_comes_twice_in_an_epoch_or_is_left_out_for_long():
    seen = order(21, 10 * 2).reshape(10, 16)
    assert all(len(set(epoch)) == 16 for epoch in seen)
    assert set(seen.ravel()) == set(range(21))


def test_labels_stay_with_their_samples():
    for inputs, labels in batches(numbered(40), 10):
        np.testing.assert_array_equal(labels[:, 0], inputs[:, 0] % 2)
        np.testing.assert_array_equal(inputs[:, 1], -inputs[:, 0])
        assert labels.dtype == inputs.dtype == np.float32


def test_another_seed_gives_another_order():
    assert not (order(64, 8, seed=1) == order(64, 8, seed=2)).all()


@pytest.mark.parametrize(("dataset", "augmentation"), [(tiny_vectors(), "mask"), (tiny_images(), "simple")])
def test_a_batch_depends_on_seed_and_step_alone(dataset, augmentation):
    options = {"num_views": 2, "augmentation": augmentation, "seed": 3, "batch_size": 20}  # 3 steps an epoch
    whole = batches(dataset, 8, **options)
    for first_step in (1, 3, 7):
        for late, early in zip(batches(dataset, 2, first_step=first_step, **options), whole[first_step:], strict=False):
            np.testing.assert_array_equal(late[0], early[0])
            np.testing.assert_array_equal(late[1], early[1])


@pytest.mark.parametrize(("dataset", "augmentation"), [(tiny_vectors(), "mask"), (tiny_images(), "crop")])
def test_the_two_views_of_a_sample_and_of_an_epoch_differ(dataset, augmentation):
    size = len(dataset.splits["train"])
    first, second = (views for views, _ in batches(dataset, 2, num_views=2, augmentation=augmentation, batch_size=size))
    for one, other in ((first[0], first[1]), (second[0], second[1]), (first[0], second[0]), (first[1], second[0])):
        assert (one != other).reshape(size, -1).any(1).all()


def test_masked_features_are_exactly_0_behind_the_standardisation_and_half_of_them_are():
    dataset = tiny_vectors(num_features=50)
    train = dataset.splits["train"].inputs
    standardise = build_backbone("mlp", (50,), train_features=train).layers[1]
    views = np.concatenate(
        [views.reshape(-1, 50) for views, _ in batches(dataset, 8, num_views=2, augmentation="mask")]
    )
    known = (views[:, None] == train[None]).any(1)  # the feature has the value of some sample: it was not masked
    standardised = np.asarray(standardise(views))
    np.testing.assert_array_equal(standardised[~known], 0)
    assert abs((~known).mean() - 0.5) < 4 * 0.5 / np.sqrt(views.size)


@pytest.mark.parametrize("image_size", [24, 16])
def test_images_that_are_not_square_become_views_of_the_asked_size(image_size):
    dataset = tiny_images()
    ((views, labels),) = batches(dataset, 1, num_views=2, augmentation="simple", image_size=image_size)
    assert views.shape == (2, BATCH, *model_input_shape(dataset, image_size)) == (2, BATCH, image_size, image_size, 3)
    assert labels.shape == (BATCH, 4)
    ((plain, _),) = batches(dataset, 1, image_size=image_size)
    assert plain.shape == (BATCH, image_size, image_size, 3)


def test_samples_as_stored_without_augmentation_and_size():
    dataset = tiny_images()
    ((images, labels),) = batches(dataset, 1, batch_size=64)
    assert images.shape[1:] == model_input_shape(dataset, None) == IMAGE_SHAPE
    for image, label in zip(images, labels, strict=True):
        (index,) = np.flatnonzero((dataset.splits["train"].inputs == image).all((1, 2, 3)))
        np.testing.assert_array_equal(dataset.splits["train"].labels[index], label)


def test_views_without_a_size_are_as_large_as_the_stored_images():
    dataset = tiny_images()
    ((views, _),) = batches(dataset, 1, num_views=2, augmentation="crop")
    assert views.shape[2:] == model_input_shape(dataset, None)


def test_evaluation_goes_through_the_split_in_order_without_loss():
    split = numbered(21).splits["test"]
    read = [tuple(map(np.asarray, batch)) for batch in evaluation_batches(split, batch_size=8, image_size=None)]
    assert [len(inputs) for inputs, _ in read] == [8, 8, 5]
    np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in read]), split.inputs)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in read]), split.labels)


def test_evaluation_resizes_by_area_so_that_means_stay():
    images = np.repeat(np.arange(6, dtype=np.uint8)[:, None, None, None] * 40, 20, axis=1) + np.zeros(
        (1, 1, 16, 1), np.uint8
    )
    images[:, ::2] += 10  # stripes of one pixel, which a resize without smoothing would keep or lose whole
    split = Split(images, np.ones((6, 1), np.uint8))
    (batch,) = evaluation_batches(split, batch_size=6, image_size=5)
    assert batch[0].shape == (6, 5, 5, 1)
    expected = np.broadcast_to((np.arange(6) * 40 + 5)[:, None, None], (6, 3, 5))
    np.testing.assert_allclose(batch[0][:, 1:-1, :, 0], expected, atol=1.0)


def test_steps_per_epoch_counts_full_batches():
    split = numbered(21).splits["train"]
    assert [steps_per_epoch(split, size) for size in (1, 7, 8, 20, 21)] == [21, 3, 2, 1, 1]
    with pytest.raises(InputError, match=r"at most the 21 training samples\. Received: --batch_size=22"):
        steps_per_epoch(split, 22)


@pytest.mark.parametrize(("dataset", "augmentation"), [(tiny_vectors(), "crop"), (tiny_images(), "mask")])
def test_an_augmentation_of_the_wrong_kind_is_refused(dataset, augmentation):
    with pytest.raises(InputError, match=f"Received: --augmentation={augmentation} for {dataset.kind}s"):
        batches(dataset, 1, augmentation=augmentation)
