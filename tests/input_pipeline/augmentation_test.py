import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.input_pipeline.augmentation import ImageAugmentation, mask_features

HEIGHT, WIDTH, COUNT = 23, 31, 400


def draws_of(number, *shape):
    return tf.random.stateless_uniform(shape, tf.constant([number, 5], tf.int64))


def cropped(images, size, seed, name="crop"):
    augmentation = ImageAugmentation(name, size)
    return augmentation.views_of_batch(
        images, augmentation.settings(draws_of(seed, augmentation.num_draws, len(images)))
    )


# Masking


@pytest.mark.parametrize("rate", [0.5, 0.4])
def test_the_masked_share_is_the_rate_in_every_row_and_column(rate):
    features, fill = tf.ones((400, 300)), tf.zeros(300)
    masked = mask_features(features, fill, draws_of(1, 400, 300), rate).numpy() == 0
    # four standard deviations of a share of n draws
    assert abs(masked.mean() - rate) < 4 * 0.5 / np.sqrt(masked.size)
    assert np.abs(masked.mean(0) - rate).max() < 5 * 0.5 / np.sqrt(400)
    assert np.abs(masked.mean(1) - rate).max() < 5 * 0.5 / np.sqrt(300)
    neighbours = np.corrcoef(masked[:, :-1].ravel(), masked[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02


def test_a_feature_is_its_fill_value_or_unchanged():
    rng = np.random.default_rng(0)
    features, fill = rng.normal(size=(20, 30)).astype(np.float32), rng.normal(size=30).astype(np.float32) + 10
    got = mask_features(features, fill, draws_of(2, 20, 30), 0.5).numpy()
    masked = got != features
    np.testing.assert_array_equal(got[masked], np.broadcast_to(fill, got.shape)[masked])


# Crops. The jitter of a view is v -> contrast v + shift. Images whose first two channels are the pixel's coordinates and
# whose other two are constants tell both the jitter and, once it is undone, where each pixel of the view was taken.

LOW, HIGH = 100.0, 150.0  # far enough from 0 and 255 that no jitter clips them


def coordinate_images():
    rows, columns = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    image = np.stack([LOW + rows, LOW + columns, np.full_like(rows, LOW), np.full_like(rows, HIGH)], axis=-1)
    return np.repeat(image[None].astype(np.float32), COUNT, axis=0)


def read_views(size, seed):
    """Rows `[N, size]`, columns `[N, size]`, contrast `[N]` and brightness `[N]` of the views that a seed gives."""
    views = cropped(coordinate_images(), (size, size), seed).numpy().astype(np.float64)
    contrast = (views[..., 3] - views[..., 2]).mean((1, 2)) / (HIGH - LOW)
    shift = views[..., 2].mean((1, 2)) - contrast * LOW
    undone = (views - shift[:, None, None, None]) / contrast[:, None, None, None]
    rows, columns = undone[..., 0] - LOW, undone[..., 1] - LOW
    np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :, :1], rows.shape), atol=1e-3)
    np.testing.assert_allclose(columns, np.broadcast_to(columns[:, :1], columns.shape), atol=1e-3)
    brightness = shift - undone.mean((1, 2, 3)) * (1 - contrast)
    return rows[:, :, 0], columns[:, 0], contrast, brightness


def test_crops_are_evenly_spaced_boxes_inside_the_image():
    size = 16
    rows, columns, _, _ = read_views(size, 1)
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
    rows, columns, _, _ = read_views(16, 2)
    slack = [rows[:, 0], HEIGHT - 1 - rows[:, -1], columns[:, 0], WIDTH - 1 - columns[:, -1]]
    for distance in slack:
        assert distance.min() < 0.1
        assert distance.max() > 3


def test_a_crop_is_never_mirrored():
    _, columns, _, _ = read_views(16, 3)
    assert (columns[:, -1] > columns[:, 0]).all()


def test_contrast_and_brightness_fill_their_ranges():
    _, _, contrast, brightness = read_views(16, 4)
    assert 0.8 - 1e-4 < contrast.min() < 0.81
    assert 1.24 < contrast.max() < 1.25 + 1e-4
    assert abs(np.median(contrast) - 1) < 0.05
    assert -51 - 1e-2 < brightness.min() < -50
    assert 50 < brightness.max() < 51 + 1e-2


def test_a_view_is_the_bilinear_reading_of_its_box_then_jitter():
    size = 12
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(COUNT, HEIGHT, WIDTH, 2)).astype(np.uint8)
    views = cropped(images, (size, size), 5).numpy()
    rows, columns, contrast, brightness = read_views(size, 5)
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


@pytest.mark.parametrize("name", ["crop", "simple"])
@pytest.mark.parametrize("side", [16, 17, 32, 63, 96])
def test_no_pixel_comes_from_outside_the_image(side, name):
    """A box that ends on the border is read up to it, not beyond by a rounding error, which would give black lines."""
    images = np.full((300, 37, 48, 1), 120, np.uint8)
    for seed in range(4):
        views = cropped(images, (side, side), seed, name).numpy()
        assert views.shape == (300, side, side, 1)
        assert np.ptp(views, axis=(1, 2, 3)).max() < 1e-2


def test_views_stay_in_the_range_of_pixels():
    images = np.random.default_rng(0).integers(0, 2, size=(200, 16, 16, 3)) * 255
    views = cropped(images, (16, 14), 6).numpy()
    assert views.dtype == np.float32
    assert views.shape == (200, 16, 14, 3)
    assert (views.min(), views.max()) == (0, 255)


# Random resized crops. A large image of coordinates, cut as files are cut, tells where a view was taken.


def photo_boxes(height, width, seed=1, count=4000):
    """Pixels `[N, 4]` top, left, bottom, right, and whether mirrored `[N]`."""
    augmentation = ImageAugmentation("simple", (8, 8))
    settings = augmentation.settings(draws_of(seed, augmentation.num_draws, count))
    boxes = augmentation.boxes(settings, height, width).numpy() * [height, width, height, width]
    return boxes, settings["mirrored"].numpy()


@pytest.mark.parametrize(("height", "width"), [(480, 640), (640, 480), (100, 100)])
def test_photo_crops_have_the_area_and_aspect_of_supcon_and_lie_in_the_image(height, width):
    boxes, mirrored = photo_boxes(height, width)
    sides = boxes[:, 2:] - boxes[:, :2]
    area, aspect = sides.prod(1) / (height * width), sides[:, 1] / sides[:, 0]
    assert boxes.min() > -1e-3
    assert (boxes[:, 2].max(), boxes[:, 3].max()) <= (height + 1e-3, width + 1e-3)
    assert 0.2 - 1e-4 < area.min() < 0.22
    assert 0.95 < area.max() < 1 + 1e-4
    assert 0.75 - 1e-4 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 4 / 3 + 1e-4
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(boxes))
    slack = np.concatenate([boxes[:, :2], [height, width] - boxes[:, 2:]], 1)
    assert (slack.min(0) < 2).all()
    assert (slack.max(0) > 0.4 * np.array([height, width, height, width])).all()


def test_photo_crops_are_distributed_as_by_drawing_until_one_fits():
    rng = np.random.default_rng(0)
    areas = []
    while len(areas) < 20000:
        area, aspect = rng.uniform(0.2, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        height, width = np.sqrt(area * 480 * 640 / aspect), np.sqrt(area * 480 * 640 * aspect)
        if height <= 480 and width <= 640:
            areas.append(area)
    boxes, _ = photo_boxes(480, 640)
    got = (boxes[:, 2:] - boxes[:, :2]).prod(1) / (480 * 640)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(got, share) == pytest.approx(np.quantile(areas, share), abs=0.02)


@pytest.mark.parametrize(("height", "width"), [(40, 900), (900, 40), (1, 1), (1, 7)])
def test_where_no_crop_fits_the_middle_is_taken(height, width):
    boxes, _ = photo_boxes(height, width)
    sides = boxes[:, 2:] - boxes[:, :2]
    if (height, width) == (40, 900):
        np.testing.assert_allclose(
            boxes, np.broadcast_to([0, 450 - 40 * 2 / 3, 40, 450 + 40 * 2 / 3], boxes.shape), atol=1e-2
        )
    if (height, width) == (900, 40):
        np.testing.assert_allclose(
            boxes, np.broadcast_to([450 - 40 * 2 / 3, 0, 450 + 40 * 2 / 3, 40], boxes.shape), atol=1e-2
        )
    assert (sides > 0).all()


@pytest.mark.parametrize(("height", "width"), [(61, 83), (200, 151), (3, 2), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_of_one_image_is_its_box_resized_and_mirrored(height, width, channels):
    augmentation = ImageAugmentation("simple", (16, 12))
    image = np.random.default_rng(0).integers(0, 256, size=(height, width, channels)).astype(np.uint8)
    for seed in range(4):
        settings = augmentation.settings(draws_of(seed, augmentation.num_draws, 2))
        boxes = augmentation.boxes(settings, height, width)
        views = augmentation.views_of_image(tf.constant(image), boxes, settings)
        for view, box, mirrored in zip(views, boxes.numpy(), settings["mirrored"].numpy(), strict=True):
            top, left, bottom, right = np.round(box * [height, width, height, width]).astype(int)
            top, left = min(top, height - 1), min(left, width - 1)
            crop = image[top : max(bottom, top + 1), left : max(right, left + 1)].astype(np.float32)
            smooth = crop.shape[0] >= 48 or crop.shape[1] >= 36
            expected = tf.image.resize(crop[:, ::-1] if mirrored else crop, (16, 12), antialias=smooth)
            assert view.shape == (16, 12, channels)
            np.testing.assert_allclose(view, expected, atol=1e-3)


def test_a_jpeg_shrinks_only_as_long_as_each_view_has_a_pixel_for_each_of_its_own():
    augmentation = ImageAugmentation("simple", (64, 64))
    chosen = []
    for seed in range(60):
        settings = augmentation.settings(draws_of(seed, augmentation.num_draws, 2))
        plan = augmentation.plan(settings, tf.constant(480), tf.constant(640))
        boxes = augmentation.boxes(settings, 480, 640).numpy()
        np.testing.assert_array_equal(plan.details, boxes)
        least = ((boxes[:, 2:] - boxes[:, :2]) * [480, 640]).min() / 64
        chosen.append(int(plan.shrink))
        assert chosen[-1] <= least
        assert 2 * chosen[-1] > least
    assert set(chosen) == {2, 4}


def test_strong_shrinking_does_not_alias():
    """Stripes of one pixel in a crop of 5 pixels to one: gray, not a pattern."""
    augmentation = ImageAugmentation("simple", (20, 20))
    image = np.zeros((160, 160, 3), np.uint8)
    image[:, ::2] = 200
    settings = augmentation.settings(draws_of(0, augmentation.num_draws, 8))
    views = augmentation.views_of_image(tf.constant(image), augmentation.boxes(settings, 160, 160), settings)
    assert np.abs(np.stack(views)[:, 1:-1, 1:-1] - 100).max() < 25


@pytest.mark.parametrize("name", ["crop", "simple", "simclr"])
@pytest.mark.parametrize("channels", [1, 3])
def test_draws_alone_decide_and_each_view_has_its_own(name, channels):
    images = np.random.default_rng(0).integers(0, 256, size=(6, 30, 40, channels)).astype(np.uint8)
    one = cropped(images, (24, 24), 1, name).numpy()
    np.testing.assert_array_equal(one, cropped(images, (24, 24), 1, name))
    assert (one != cropped(images, (24, 24), 2, name).numpy()).reshape(6, -1).any(1).all()
    same = cropped(np.repeat(images[:1], 6, axis=0), (24, 24), 1, name).numpy()
    assert len(np.unique(same.reshape(6, -1), axis=0)) == 6
