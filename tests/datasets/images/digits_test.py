import numpy as np
import pytest
from sklearn.datasets import load_digits

from mulsupcon_tf.datasets.images import digits
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils.errors import InputError

SPLITS = ("train", "validation", "test")


def naive_scene(placements, scene, background):
    """Paints one scene pixel by pixel in double precision: the image, and the visible pixels of each digit."""
    image = background.astype(np.float64).copy()
    shown = [[None] * 48 for _ in range(48)]
    for slot in range(4):
        if not placements.present[scene, slot]:
            continue
        source = load_digits().images[placements.sources[scene, slot]] / 16
        height, width = float(placements.heights[scene, slot]), float(placements.widths[scene, slot])
        for row in range(48):
            for column in range(48):
                # Position on the 8x8 source, on whose centre (3.5, 3.5) the digit's centre lies.
                v = (row - float(placements.center_rows[scene, slot])) * 8 / height + 3.5
                h = (column - float(placements.center_columns[scene, slot])) * 8 / width + 3.5
                top, left = int(np.floor(v)), int(np.floor(h))
                ink = 0.0
                for y in (top, top + 1):
                    for x in (left, left + 1):
                        if 0 <= y < 8 and 0 <= x < 8:
                            ink += (1 - abs(v - y)) * (1 - abs(h - x)) * source[y, x]
                opacity = min(1.0, 1.4 * ink)
                image[row, column] *= 1 - opacity
                image[row, column] += opacity * float(placements.brightness[scene, slot])
                if opacity > 0.5:
                    shown[row][column] = placements.classes[scene, slot]
    counts = [sum(line.count(digit) for line in shown) for digit in range(10)]
    return image, [count if count >= 8 else 0 for count in counts]


def test_images_and_visible_areas_against_pixel_by_pixel_painting():
    placements = digits.draw_placements(12, "train", np.random.default_rng(5))
    background = np.random.default_rng(6).uniform(0, 0.3, (12, 48, 48)).astype(np.float32)

    images, owner = digits.paint(placements, background)
    areas = digits.visible_areas(placements, owner)

    for scene in range(12):
        image, counts = naive_scene(placements, scene, background[scene])
        np.testing.assert_allclose(images[scene], image, atol=1e-4)
        assert list(areas[scene]) == counts


def test_a_digit_that_hardly_shows_gives_no_label():
    owner = np.full((1, 48, 48), -1, np.int8)
    owner[0, 0, :8], owner[0, 1, :7], owner[0, 2, :30] = 0, 1, 3
    placements = digits.draw_placements(1, "train", np.random.default_rng(0))
    expected = np.zeros(10)
    expected[placements.classes[0]] = [8, 0, 0, 30]
    np.testing.assert_array_equal(digits.visible_areas(placements, owner)[0], expected)


def test_placements_keep_the_recipe():
    placements = digits.draw_placements(4000, "train", np.random.default_rng(0))
    sizes = np.sqrt(placements.heights * placements.widths)

    assert all(len(set(row)) == 4 for row in placements.classes)
    np.testing.assert_array_equal(load_digits().target[placements.sources], placements.classes)
    assert sizes.min() > 8.99 and sizes.max() < 30.01
    assert (np.diff(sizes, axis=1) <= 1e-4).all(), "large digits must come first, below small ones"
    counts = np.bincount(placements.present.sum(axis=1), minlength=5) / 4000
    np.testing.assert_allclose(counts, [0, 0.25, 0.30, 0.25, 0.20], atol=0.025)
    for middle, extent in (
        (placements.center_rows, placements.heights),
        (placements.center_columns, placements.widths),
    ):
        assert (middle - (extent - 1) / 2 > -0.01).all() and (middle + (extent - 1) / 2 < 47.01).all()


def test_the_same_seed_gives_the_same_scenes_however_many_are_drawn():
    few, many = digits.draw_scenes(40, "train", seed=7), digits.draw_scenes(600, "train", seed=7)
    np.testing.assert_array_equal(few.images, many.images[:40])
    np.testing.assert_array_equal(few.areas, many.areas[:40])
    for other in (digits.draw_scenes(40, "train", seed=8), digits.draw_scenes(40, "test", seed=7)):
        assert not np.array_equal(few.images, other.images)
    assert not np.array_equal(many.images[:40], many.images[512:552]), "blocks must not repeat"


def test_splits_share_no_handwritten_digit():
    pools = {split: np.concatenate(digits.source_digits(split)) for split in SPLITS}
    together = np.concatenate(list(pools.values()))
    assert sorted(together) == list(range(1797))
    shares = [len(pools[split]) / 1797 for split in SPLITS]
    np.testing.assert_allclose(shares, [0.6, 0.15, 0.25], atol=0.005)


def test_scenes_do_not_depend_on_the_digits_of_other_splits(monkeypatch):
    ink = digits.handwriting()
    expected = digits.draw_scenes(300, "test").images
    own = np.concatenate(digits.source_digits("test"))

    blotted = np.ones_like(ink)
    blotted[own] = ink[own]
    monkeypatch.setattr(digits, "handwriting", lambda: blotted)
    np.testing.assert_array_equal(digits.draw_scenes(300, "test").images, expected)

    blotted = ink.copy()
    blotted[own] = 1
    assert not np.array_equal(digits.draw_scenes(300, "test").images, expected)


def test_labels_and_distributions_follow_from_the_areas():
    areas = np.zeros((2, 10), np.int32)
    areas[0, [1, 4]] = 30, 10
    split = digits.Scenes(np.zeros((2, 48, 48, 1), np.uint8), areas).as_split()
    assert split.labels.tolist() == [[0, 1, 0, 0, 1, 0, 0, 0, 0, 0], [0] * 10]
    np.testing.assert_allclose(split.distributions, [[0, 0.75, 0, 0, 0.25, 0, 0, 0, 0, 0], [0] * 10])


def test_the_dataset_has_the_numbers_of_the_recipe():
    dataset = load_dataset("digits", data_dir=None)

    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 6000,
        "validation": 1000,
        "test": 2000,
    }
    assert (dataset.kind, dataset.input_shape) == ("image", (48, 48, 1))
    assert dataset.label_names == tuple("0123456789")
    train = dataset.splits["train"]
    assert train.inputs.dtype == np.uint8
    assert abs(train.labels.sum(axis=1).mean() - 2.43) < 0.05
    prevalence = [0.447, 0.397, 0.346, 0.286, 0.247, 0.206, 0.171, 0.138, 0.105, 0.085]
    np.testing.assert_allclose(train.labels.mean(axis=0), prevalence, atol=0.02)
    several = train.distributions[train.labels.sum(axis=1) > 1]
    ratios = several.max(axis=1) / np.where(several > 0, several, 1).min(axis=1)
    np.testing.assert_allclose(np.quantile(ratios, [0.1, 0.5, 0.9, 0.99]), [1.3, 2.8, 6.3, 9.9], rtol=0.08)


@pytest.mark.parametrize(("num_scenes", "split"), [(3, "val"), (-1, "train")])
def test_wrong_requests(num_scenes, split):
    with pytest.raises(InputError, match=f"Received: num_scenes={num_scenes}, split='{split}'"):
        digits.draw_scenes(num_scenes, split)
