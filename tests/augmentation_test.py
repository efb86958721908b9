import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.augmentation import mask_features, random_crop

HEIGHT, WIDTH, COUNT = 23, 31, 400


def seed_of(number):
    return tf.constant([number, 5], tf.int64)


# Masking


def test_masked_share_is_a_half_in_every_row_and_column():
    features, fill = tf.ones((400, 300)), tf.zeros(300)
    masked = mask_features(features, fill, seed_of(1)).numpy() == 0
    # four standard deviations of a share of n draws
    assert abs(masked.mean() - 0.5) < 4 * 0.5 / np.sqrt(masked.size)
    assert np.abs(masked.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(400)
    assert np.abs(masked.mean(1) - 0.5).max() < 5 * 0.5 / np.sqrt(300)
    neighbours = np.corrcoef(masked[:, :-1].ravel(), masked[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_a_feature_is_its_fill_value_or_unchanged():
    rng = np.random.default_rng(0)
    features, fill = rng.normal(size=(20, 30)).astype(np.float32), rng.normal(size=30).astype(np.float32) + 10
    got = mask_features(features, fill, seed_of(2)).numpy()
    masked = got != features
    np.testing.assert_array_equal(got[masked], np.broadcast_to(fill, got.shape)[masked])


@pytest.mark.parametrize(
    "view", [lambda seed: mask_features(tf.ones((9, 9)), tf.zeros(9), seed),
             lambda seed: random_crop(tf.ones((9, 9, 9, 1)) * 90, (8, 8), seed, flip=True)], ids=["mask", "crop"])  # fmt: skip
def test_the_seed_alone_decides(view):
    np.testing.assert_array_equal(view(seed_of(3)), view(seed_of(3)))
    assert (view(seed_of(3)).numpy() != view(seed_of(4)).numpy()).any()
    assert (view(tf.constant([3, 6], tf.int64)).numpy() != view(seed_of(3)).numpy()).any()


# Crops. The jitter of a view is v -> contrast v + shift. Images whose first two channels are the pixel's coordinates and
# whose other two are constants tell both the jitter and, once it is undone, where each pixel of the view was taken.

LOW, HIGH = 100.0, 150.0  # far enough from 0 and 255 that no jitter clips them


def coordinate_images():
    rows, columns = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    image = np.stack([LOW + rows, LOW + columns, np.full_like(rows, LOW), np.full_like(rows, HIGH)], axis=-1)
    return np.repeat(image[None].astype(np.float32), COUNT, axis=0)


def read_views(size, seed, flip):
    """Rows `[N, size]`, columns `[N, size]`, contrast `[N]` and brightness `[N]` of the views that a seed gives."""
    views = random_crop(coordinate_images(), (size, size), seed_of(seed), flip=flip).numpy().astype(np.float64)
    contrast = (views[..., 3] - views[..., 2]).mean((1, 2)) / (HIGH - LOW)
    shift = views[..., 2].mean((1, 2)) - contrast * LOW
    undone = (views - shift[:, None, None, None]) / contrast[:, None, None, None]
    rows, columns = undone[..., 0] - LOW, undone[..., 1] - LOW
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :, :1], rows.shape), atol=1e-3)
    np.testing.assert_allclose(columns, np.broadcast_to(columns[:, :1], columns.shape), atol=1e-3)
    brightness = shift - undone.mean((1, 2, 3)) * (1 - contrast)
    return rows[:, :, 0], columns[:, 0], contrast, brightness


@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_evenly_spaced_boxes_inside_the_image(flip):
    size = 16
    rows, columns, _, _ = read_views(size, 1, flip)
    for places, side in ((rows, HEIGHT), (columns, WIDTH)):
        even = np.linspace(places[:, 0], places[:, -1], size, axis=1)
        np.testing.assert_allclose(places, even, atol=2e-3)
        assert places.min() > -1e-3
        assert places.max() < side - 1 + 1e-3
    height, width = (rows[:, -1] - rows[:, 0]) / (HEIGHT - 1), np.abs(columns[:, -1] - columns[:, 0]) / (WIDTH - 1)
    area, whole_side = height * width, np.maximum(height, width) > 1 - 1e-3
    # a side that would leave the image is cut to it, which changes area and ratio
    assert area.min() > 0.5 / np.sqrt(1.25) * 0.999
    assert area[~whole_side].min() > 0.499
    ratio = (width / height)[~whole_side]
    assert 0.79 < ratio.min() < 0.85
    assert 1.18 < ratio.max() < 1.26
    assert area[~whole_side].mean() == pytest.approx(0.7, abs=0.05)
    assert np.corrcoef(height, width)[0, 1] < 0.99


def test_crops_reach_every_border():
    rows, columns, _, _ = read_views(16, 2, flip=False)
    slack = [rows[:, 0], HEIGHT - 1 - rows[:, -1], columns[:, 0], WIDTH - 1 - columns[:, -1]]
    for distance in slack:
        assert distance.min() < 0.1
        assert distance.max() > 3


def test_half_of_the_views_are_mirrored_and_only_where_asked():
    _, columns, _, _ = read_views(16, 3, flip=True)
    mirrored = columns[:, -1] < columns[:, 0]
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT)
    _, plain, _, _ = read_views(16, 3, flip=False)
    assert (plain[:, -1] > plain[:, 0]).all()
    np.testing.assert_allclose(columns[mirrored], plain[mirrored, ::-1], atol=2e-3)


def test_contrast_and_brightness_fill_their_ranges():
    _, _, contrast, brightness = read_views(16, 4, flip=False)
    assert 0.8 - 1e-4 < contrast.min() < 0.81
    assert 1.24 < contrast.max() < 1.25 + 1e-4
    assert abs(np.median(contrast) - 1) < 0.05
    assert -51 - 1e-2 < brightness.min() < -50
    assert 50 < brightness.max() < 51 + 1e-2


@pytest.mark.parametrize("flip", [False, True])
def test_a_view_is_the_bilinear_reading_of_its_box_then_jitter(flip):
    size = 12
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(COUNT, HEIGHT, WIDTH, 2)).astype(np.uint8)
    views = random_crop(images, (size, size), seed_of(5), flip=flip).numpy()
    rows, columns, contrast, brightness = read_views(size, 5, flip)
    for index in range(12):
        crop = np.zeros((size, size, 2))
        for i, y in enumerate(rows[index].clip(0, HEIGHT - 1)):
            for j, x in enumerate(columns[index].clip(0, WIDTH - 1)):
                top, left = int(y), int(x)
                bottom, right = min(top + 1, HEIGHT - 1), min(left + 1, WIDTH - 1)
                above = (x - left) * images[index, top, right] + (1 - x + left) * images[index, top, left]
                below = (x - left) * images[index, bottom, right] + (1 - x + left) * images[index, bottom, left]
                crop[i, j] = (y - top) * below + (1 - y + top) * above
        expected = (crop - crop.mean()) * contrast[index] + crop.mean() + brightness[index]
        np.testing.assert_allclose(views[index], expected.clip(0, 255), atol=0.2)


@pytest.mark.parametrize("side", [16, 17, 23, 32, 48, 63, 96])
def test_no_pixel_comes_from_outside_the_image(side):
    """A box that ends on the border is read up to it, not beyond by a rounding error, which would give black lines."""
    images = np.full((300, 37, 48, 1), 120, np.uint8)
    for seed in range(4):
        views = random_crop(images, (side, side), seed_of(seed), flip=True).numpy()
        assert views.shape == (300, side, side, 1)
        assert np.ptp(views, axis=(1, 2, 3)).max() < 1e-2


def test_views_stay_in_the_range_of_pixels():
    images = np.random.default_rng(0).integers(0, 2, size=(200, 16, 16, 3)) * 255
    views = random_crop(images, (16, 14), seed_of(6), flip=True).numpy()
    assert views.dtype == np.float32
    assert views.shape == (200, 16, 14, 3)
    assert (views.min(), views.max()) == (0, 255)
