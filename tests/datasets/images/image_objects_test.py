import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles
from mulsupcon_tf.datasets.images.image_objects import ImageObjects


def random_objects(seed, images=7, labels=4, count=15):
    rng = np.random.default_rng(seed)
    files = ImageFiles(np.array([f"{row}.jpg" for row in range(images)], object))
    rows = rng.integers(1, images, count)  # image 0 has none
    return ImageObjects(files, rows, rng.integers(0, labels, count), rng.exponential(size=count))


def test_labels_and_shares_are_those_of_a_loop_over_the_objects():
    for seed in range(3):
        objects = random_objects(seed)
        labels, areas = np.zeros((7, 4)), np.zeros((7, 4))
        for row, column, area in zip(objects.rows, objects.columns, objects.areas, strict=True):
            labels[row, column] = 1
            areas[row, column] += area
        shares = [row / row.sum() if row.sum() else row for row in areas]
        assert objects.labels(4).dtype == np.uint8
        assert objects.area_shares(4).dtype == np.float32
        np.testing.assert_array_equal(objects.labels(4), labels)
        np.testing.assert_allclose(objects.area_shares(4), shares, rtol=1e-6)


def test_objects_without_area_share_equally():
    files = ImageFiles(np.array(["a.jpg", "b.jpg"], object))
    objects = ImageObjects(files, np.array([0, 0, 0]), np.array([0, 2, 2]), np.zeros(3))
    np.testing.assert_array_equal(objects.area_shares(3), [[0.5, 0, 0.5], [0, 0, 0]])


def test_images_without_any_object_are_rows_of_zeros():
    files = ImageFiles(np.array(["a.jpg", "b.jpg"], object))
    objects = ImageObjects(files, np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    np.testing.assert_array_equal(objects.labels(3), np.zeros((2, 3)))
    np.testing.assert_array_equal(objects.area_shares(3), np.zeros((2, 3)))
