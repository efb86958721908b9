import itertools
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.input_pipeline import cache as decoded_cache
from mulsupcon_tf.input_pipeline.batches import (
    evaluation_batches,
    fixed_view_batches,
    model_input_shape,
    training_batches,
)
from mulsupcon_tf.input_pipeline.cache import with_decoded_cache
from mulsupcon_tf.input_pipeline.decoding import DecodingPlan
from mulsupcon_tf.input_pipeline.image_files import with_pixel_limit
from mulsupcon_tf.input_pipeline.sampling_order import steps_per_epoch, training_inputs
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_file_sets import write_image_files
from tests.helpers.tiny_datasets import IMAGE_SHAPE, tiny_images, tiny_vectors

BATCH = 8


def numbered(count):
    """Sample n has the features (n, -n) and the label n mod 2."""
    numbers = np.arange(count, dtype=np.float32)
    split = Split(np.stack([numbers, -numbers], 1), np.stack([numbers % 2, 1 - numbers % 2], 1).astype(np.uint8))
    return MultiLabelDataset(
        "numbered", "vector", ("odd", "even"), dict.fromkeys(("train", "validation", "test"), split)
    )


def batches(dataset, count, *, seed=0, batch_size=BATCH, num_views=1, augmentation=None, image_size=None, **options):
    stream = training_batches(
        dataset,
        batch_size=batch_size,
        num_views=num_views,
        augmentation=augmentation,
        image_size=image_size,
        seed=seed,
        **options,
    )
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


def test_evaluation_keeps_the_middle_of_an_image_and_resizes_it_by_area():
    images = np.repeat(np.arange(6, dtype=np.uint8)[:, None, None, None] * 40, 20, axis=1) + np.zeros(
        (1, 1, 16, 1), np.uint8
    )
    images[:, ::2] += 10  # stripes of one pixel, which a resize without smoothing would keep or lose whole
    images[:, [0, 19]] = 255  # beyond the middle
    split = Split(images, np.ones((6, 1), np.uint8))
    (batch,) = evaluation_batches(split, batch_size=6, image_size=4)
    assert batch[0].shape == (6, 4, 4, 1)
    expected = np.broadcast_to((np.arange(6) * 40 + 5)[:, None, None], (6, 2, 4))
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


# Image files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_image_files(tmp_path_factory.mktemp("files") / "data")


def test_the_cache_decodes_nothing_larger_than_allowed(files):
    with pytest.raises(InputError, match=r"at most 400 pixels \(--max_image_pixels\)"):
        with_decoded_cache(with_pixel_limit(files, 400), 16)


@pytest.fixture(scope="module")
def cached(files):
    return with_decoded_cache(files, 16)


SIMPLE = {"num_views": 2, "augmentation": "simple", "image_size": 16}


def middle_by_pillow(path, side):
    """The middle square, resized smoothly, in floating point."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32)
    height, width = pixels.shape[:2]
    least = min(height, width)
    left, top = (width - least) / 2, (height - least) / 2
    box = (left, top, left + least, top + least)
    planes = [
        Image.fromarray(plane).resize((side, side), Image.BILINEAR, box=box) for plane in pixels.transpose(2, 0, 1)
    ]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def test_files_are_judged_by_their_middle_square_like_pillow_resizes_it(files):
    split = files.splits["test"]
    read = [tuple(map(np.asarray, batch)) for batch in evaluation_batches(split, batch_size=3, image_size=16)]
    assert [len(images) for images, _ in read] == [3, 3, 2]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in read]), split.labels)
    for path, image in zip(split.inputs.paths, np.concatenate([images for images, _ in read]), strict=True):
        # JPEGs differ a little: they are made smaller while they are decoded
        np.testing.assert_allclose(image, middle_by_pillow(path, 16), atol=12 if path.endswith("jpg") else 0.6)


def test_files_without_augmentation_are_seen_in_training_as_they_are_judged(files):
    split = files.splits["train"]
    ((judged, _),) = evaluation_batches(split, batch_size=24, image_size=16)
    ((images, labels),) = batches(files, 1, batch_size=24, image_size=16)
    for image, label in zip(images, labels, strict=True):
        (index,) = np.flatnonzero((judged.numpy() == image).all((1, 2, 3)))
        np.testing.assert_array_equal(split.labels[index], label)


def test_a_view_of_a_file_is_cut_from_that_file(files):
    """The brightness and colour of each image are its own, and cropping hardly changes them."""
    means = np.array([middle_by_pillow(path, 4).mean((0, 1)) for path in files.splits["train"].inputs.paths])
    for views, labels in batches(files, 3, **SIMPLE, batch_size=24):
        assert views.shape == (2, 24, 16, 16, 3)
        assert views.dtype == np.float32
        for view in views:
            nearest = np.abs(means[None] - view.mean((1, 2))[:, None]).sum(-1).argmin(1)
            agree = (files.splits["train"].labels[nearest] == labels).all(1)
            assert agree.mean() > 0.9


def test_an_epoch_of_files_holds_each_once_in_the_order_of_samples_in_memory(files):
    labels = np.concatenate([labels for _, labels in batches(files, 6, **SIMPLE)])
    rows = training_inputs(files, 0, 6, batch_size=BATCH, seed=0).paths
    position = {path: row for row, path in enumerate(files.splits["train"].inputs.paths)}
    rows = np.array([position[path] for path in rows])
    assert sorted(rows[:24]) == sorted(rows[24:]) == list(range(24))
    np.testing.assert_array_equal(files.splits["train"].labels[rows], labels)
    assert (rows == order(24, 6)).all()


@pytest.mark.parametrize("kind", ["files", pytest.param("cached", marks=pytest.mark.slow)])
def test_a_batch_of_files_depends_on_seed_and_step_alone(kind, request):
    dataset = request.getfixturevalue(kind)
    options = SIMPLE | {"augmentation": "simclr"}
    whole = batches(dataset, 5, **options)
    ((late, labels),) = batches(dataset, 1, first_step=4, **options)  # in the second epoch
    np.testing.assert_array_equal(late, whole[4][0])
    np.testing.assert_array_equal(labels, whole[4][1])
    assert (whole[0][0] != whole[3][0]).any()
    assert (whole[0][0][0] != whole[0][0][1]).reshape(BATCH, -1).any(1).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("files", SIMPLE | {"augmentation": "simclr"}),
        pytest.param("images", SIMPLE | {"augmentation": "simclr"}, marks=pytest.mark.slow),
        ("images", SIMPLE | {"augmentation": "crop", "image_size": None}),
        ("vectors", {"num_views": 2, "augmentation": "mask"}),
    ],
)
def test_the_shards_together_are_the_unsharded_batch(kind, options, files):
    dataset = {"files": files, "images": tiny_images(), "vectors": tiny_vectors()}[kind]
    whole = batches(dataset, 2, first_step=2, **options)
    shards = [batches(dataset, 2, first_step=2, shard=(worker, 2), **options) for worker in range(2)]
    for step, (views, labels) in enumerate(whole):
        together = np.concatenate([shard[step][0] for shard in shards], axis=1)
        # The mean colour of a view is summed in another order in a smaller batch.
        np.testing.assert_allclose(together, views, rtol=0, atol=1e-3 if kind == "images" else 0)
        np.testing.assert_array_equal(np.concatenate([shard[step][1] for shard in shards]), labels)


@pytest.mark.parametrize("kind", ["files", "images"])
def test_fixed_views_come_in_the_order_of_their_samples_and_depend_on_seed_and_row_alone(kind, files):
    dataset = {"files": files, "images": tiny_images()}[kind]
    split = dataset.splits["train"][:21]
    settings = {"batch_size": BATCH, "augmentation": "simple", "image_size": 16}

    def views(**options):
        stream = list(fixed_view_batches(split, **settings, **{"seed": 1} | options))
        return tuple(np.concatenate(parts) for parts in zip(*stream, strict=True))

    made, labels = views()
    assert made.shape == (24, 16, 16, 3) and made.dtype == np.float32
    rows = np.minimum(np.arange(24), 20)
    np.testing.assert_array_equal(labels, split.labels[rows])
    if kind == "files":  # as in the test of views above
        means = np.array([middle_by_pillow(path, 4).mean((0, 1)) for path in split.inputs.paths])
        nearest = np.abs(means[None] - made.mean((1, 2))[:, None]).sum(-1).argmin(1)
        assert (split.labels[nearest] == labels).all(1).mean() > 0.9
    np.testing.assert_array_equal(views(first_row=16)[0], made[16:])
    assert (views(seed=2)[0] != made).reshape(24, -1).any(1).all()


def test_a_sample_has_one_view_or_two():
    """A third would be missing in silence where views are fixed."""
    with pytest.raises(InputError, match=r"num_views must be at most 2\. Received: num_views=3"):
        batches(tiny_vectors(), 1, num_views=3, augmentation="mask")


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(InputError, match=r"multiple of the 3 workers\. Received: --batch_size=8"):
        batches(tiny_vectors(), 1, shard=(0, 3))


def test_images_in_memory_much_larger_than_the_views_are_smoothed():
    """Stripes of one pixel, which reading between four pixels would keep as a pattern."""
    images = np.zeros((16, 160, 160, 1), np.uint8)
    images[:, ::2] = 200
    dataset = MultiLabelDataset(
        "npz",
        "image",
        ("a",),
        dict.fromkeys(("train", "validation", "test"), Split(images, np.ones((16, 1), np.uint8))),
    )
    ((views, _),) = batches(dataset, 1, **SIMPLE, batch_size=16)
    assert np.abs(views[:, :, 1:-1, 1:-1] - 100).max() < 25


def test_a_broken_file_stops_the_stream_and_can_be_found(tmp_path):
    dataset = write_image_files(tmp_path / "data")
    step_2 = training_inputs(dataset, 2, 1, batch_size=BATCH, seed=0)
    pathlib.Path(step_2.paths[3]).write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(tf.errors.InvalidArgumentError):
        batches(dataset, 3, **SIMPLE)
    assert len(batches(dataset, 2, **SIMPLE)) == 2


def test_the_cache_holds_each_image_with_a_shorter_side_of_8_sevenths(files, cached):
    for name in ("train", "validation"):
        inputs = cached.splits[name].inputs
        assert len(inputs) == len(files.splits[name])
        read = inputs.reader()
        for row, path in enumerate(inputs.paths):
            image, _ = read(tf.constant(row), lambda height, width: DecodingPlan(tf.constant(1)))
            original = Image.open(path).convert("RGB")
            scale = min(1.0, 18 / min(original.size))  # 18 is 8/7 of 16, rounded
            assert image.dtype == tf.uint8
            np.testing.assert_allclose(image.shape[:2], np.array(original.size[::-1]) * scale, atol=1.01)
            expected = np.asarray(original.resize(image.shape[1::-1], Image.BILINEAR), int)
            assert np.abs(image.numpy() - expected).mean() < 2
    assert cached.splits["test"] is files.splits["test"]
    assert cached.on_disk
    pixels = sum(int(cached.splits[name].inputs.pixels.shape[0]) for name in ("train", "validation"))
    assert pixels == sum(cached.splits[name].inputs.sides.prod(1).sum() * 3 for name in ("train", "validation"))


def test_views_from_the_cache_are_those_of_the_files_in_small(files, cached):
    ((from_files, labels),), ((from_cache, same_labels),) = (batches(each, 1, **SIMPLE) for each in (files, cached))
    np.testing.assert_array_equal(labels, same_labels)
    assert np.abs(from_files - from_cache).mean() < 4


def test_a_cache_larger_than_the_memory_is_refused_before_anything_is_decoded(files, monkeypatch):
    monkeypatch.setattr(decoded_cache, "available_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"takes about .* KiB at --image_size=16\. Received: 1\.0 KiB available"):
        with_decoded_cache(files, 16)


def test_the_memory_that_is_there_is_between_nothing_and_all():
    assert 0 < decoded_cache.available_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_image_files_are_judged_in_the_shape_of_a_network_of_grey_images_in_memory(tmp_path):
    images = tiny_images(shape=(20, 16, 1)).splits["test"].inputs
    for number, pixels in enumerate(images):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{number:02d}.png")
    files = ImageFiles(np.array([str(path) for path in sorted(tmp_path.iterdir())], object))
    split = Split(files, np.zeros((len(files), 1), np.uint8))
    ((got, _),) = evaluation_batches(split, batch_size=24, image_size=None, file_shape=(20, 16, 1))
    np.testing.assert_array_equal(got, images)
