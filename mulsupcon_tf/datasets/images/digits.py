"""`digits`: scenes of scikit-learn's bundled handwritten digits, of which the true label distribution is known.

A scene shows one to four different digits of very different sizes, large ones below small ones, over a soft background
with fragments of other digits as clutter. Frequent classes are eight times as common as rare ones. The share of the
visible digit pixels that belongs to a label is how much the label matters, so recovered distributions can be held
against truth.
"""

import dataclasses
import functools

import numpy as np

from mulsupcon_tf.datasets.base import SPLIT_NAMES, MultiLabelDataset, Split
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.errors import InputError

NUM_CLASSES = 10
CANVAS = 48  # pixels along a side
SLOTS = 4  # the most digits that a scene can hold
SCENES = {"train": 6000, "validation": 1000, "test": 2000}
SOURCE_SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}  # of the handwritten digits of each class
MIN_VISIBLE = 8  # a digit with fewer visible pixels gives no label

_SOURCE_SEED = 0
_DIGIT_COUNT_PROBABILITIES = (0.25, 0.30, 0.25, 0.20)  # of 1, 2, 3, 4 digits
_IMBALANCE = 8.0  # weight of class 0 over weight of class 9
_SIZES = (9.0, 30.0)
_ASPECT = 0.15  # largest |log| by which height grows and width shrinks
_BRIGHTNESS = (0.5, 1.0)
_BACKGROUND = (0.0, 0.3)
_BACKGROUND_CELLS = 6
_FRAGMENTS = 3
_FRAGMENT_CELLS = 4
_FRAGMENT_SIZES = (4.0, 10.0)
_NOISE = 0.07
_OPACITY = 1.4  # ink covers as min(1, 1.4 ink)
_COVERS = 0.5  # opacity above which a pixel belongs to the digit
_BLOCK = 512  # scenes drawn from one stream of random numbers


@dataclasses.dataclass(frozen=True)
class Scenes:
    """N scenes and what they show.

    Attributes:
        images: `[N, 48, 48, 1]` uint8.
        areas: `[N, 10]` int32, visible pixels of each digit; 0 for a digit that is absent or shows fewer than 8.
    """

    images: np.ndarray
    areas: np.ndarray

    def as_split(self) -> Split:
        """Images, labels (a positive area) and distributions (shares of the area)."""
        totals = np.maximum(self.areas.sum(axis=1, keepdims=True), 1)
        return Split(self.images, (self.areas > 0).astype(np.uint8), (self.areas / totals).astype(np.float32))


@dataclasses.dataclass(frozen=True)
class Placements:
    """Which digit goes where, for N scenes of four slots that are painted in order; all arrays are `[N, 4]`.

    Attributes:
        classes: int, the digit, all different within a scene.
        sources: int, index into `handwriting()`.
        present: bool, False for a slot that stays empty.
        heights: float32, in pixels, as are the three below.
        widths: float32.
        center_rows: float32.
        center_columns: float32.
        brightness: float32.
    """

    classes: np.ndarray
    sources: np.ndarray
    present: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    center_rows: np.ndarray
    center_columns: np.ndarray
    brightness: np.ndarray


def load_digit_scenes(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Draws the dataset `digits`: 6000, 1000 and 2000 scenes of 48x48 grey pixels, 10 labels.

    Args:
        name: "digits".
        data_dir: not read: an experiment gives one folder to all of its datasets.
        seed: of the scenes.
    """
    del data_dir
    parts = {split: draw_scenes(count, split, seed).as_split() for split, count in SCENES.items()}
    return finish_dataset(name, "image", tuple(str(digit) for digit in range(NUM_CLASSES)), parts, seed)


def draw_scenes(num_scenes: int, split: str, seed: int = 0) -> Scenes:
    """Draws scenes; the first n of them do not depend on how many are drawn.

    Args:
        num_scenes: N.
        split: "train", "validation" or "test": the splits share no handwritten digit.
        seed: the same seed and split give the same scenes.

    Raises:
        InputError: an unknown split, or a negative number of scenes.
    """
    if split not in SPLIT_NAMES or num_scenes < 0:
        raise InputError(
            f"scenes are drawn as a number >= 0 for a split of {', '.join(SPLIT_NAMES)}. "
            f"Received: num_scenes={num_scenes}, split={split!r}"
        )
    images = np.empty((num_scenes, CANVAS, CANVAS, 1), np.uint8)
    areas = np.empty((num_scenes, NUM_CLASSES), np.int32)
    for block, start in enumerate(range(0, num_scenes, _BLOCK)):
        rng = np.random.default_rng([seed, SPLIT_NAMES.index(split), block])
        placements = draw_placements(_BLOCK, split, rng)
        image, owner = paint(placements, _draw_background(_BLOCK, split, rng))
        image += _NOISE * rng.standard_normal(image.shape, np.float32)
        rows = slice(start, min(start + _BLOCK, num_scenes))
        kept = rows.stop - start
        images[rows, :, :, 0] = (image[:kept].clip(0, 1) * 255 + 0.5).astype(np.uint8)
        areas[rows] = visible_areas(placements, owner)[:kept]
    return Scenes(images, areas)


@functools.cache
def handwriting() -> np.ndarray:
    """The 1797 handwritten digits: `[1797, 8, 8]` float32 ink in [0, 1]."""
    from sklearn.datasets import load_digits

    return (load_digits().images / 16).astype(np.float32)


@functools.cache
def source_digits(split: str) -> tuple[np.ndarray, ...]:
    """Returns for each class the indices into `handwriting()` that a split may use; splits are disjoint."""
    from sklearn.datasets import load_digits

    targets = load_digits().target
    rng = np.random.default_rng(_SOURCE_SEED)
    position = SPLIT_NAMES.index(split)
    bounds = np.concatenate([[0], np.cumsum([SOURCE_SHARES[name] for name in SPLIT_NAMES])])
    pools = []
    for digit in range(NUM_CLASSES):
        shuffled = rng.permutation(np.flatnonzero(targets == digit))
        start, stop = np.rint(bounds[position : position + 2] * len(shuffled)).astype(int)
        pools.append(shuffled[start:stop])
    return tuple(pools)


def draw_placements(num_scenes: int, split: str, rng: np.random.Generator) -> Placements:
    """Draws which digits the scenes show, where and how large; larger digits come in earlier slots."""
    shape = (num_scenes, SLOTS)
    log_weights = -np.log(_IMBALANCE) * np.arange(NUM_CLASSES) / (NUM_CLASSES - 1)
    # The Gumbel trick: the k largest perturbed log weights are a draw of k without replacement.
    classes = np.argsort(-(log_weights + rng.gumbel(size=(num_scenes, NUM_CLASSES))), axis=1)[:, :SLOTS]
    # The draw comes most likely class first, and slots come largest digit first: without a shuffle frequent classes
    # would be larger, and the class prior alone would order 54% of a scene's pairs of labels rightly.
    classes = rng.permuted(classes, axis=1)
    counts = rng.choice(np.arange(1, SLOTS + 1), num_scenes, p=_DIGIT_COUNT_PROBABILITIES)
    # Random slots, not the first ones: a scene of one digit shows a digit of any size.
    present = np.argsort(np.argsort(rng.random(shape), axis=1), axis=1) < counts[:, None]
    sizes = -np.sort(-_log_uniform(rng, _SIZES, shape), axis=1)
    stretch = np.exp(rng.uniform(-_ASPECT, _ASPECT, shape))
    heights, widths = sizes * stretch, sizes / stretch
    pools = source_digits(split)
    pool_sizes = np.array([len(pool) for pool in pools])
    pool_starts = np.cumsum(pool_sizes) - pool_sizes
    picks = pool_starts[classes] + (rng.random(shape) * pool_sizes[classes]).astype(int)
    return Placements(
        classes=classes,
        sources=np.concatenate(pools)[picks],
        present=present,
        heights=heights.astype(np.float32),
        widths=widths.astype(np.float32),
        center_rows=((heights - 1) / 2 + rng.random(shape) * (CANVAS - heights)).astype(np.float32),
        center_columns=((widths - 1) / 2 + rng.random(shape) * (CANVAS - widths)).astype(np.float32),
        brightness=rng.uniform(*_BRIGHTNESS, shape).astype(np.float32),
    )


def paint(placements: Placements, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paints the slots in order over a background.

    Args:
        placements: N scenes.
        background: `[N, 48, 48]` float32.

    Returns:
        The scenes, `[N, 48, 48]` float32, and the slot whose digit is seen at each pixel, `[N, 48, 48]` int8, -1 where
        none is.
    """
    image = background
    owner = np.full(image.shape, -1, np.int8)
    for slot in range(SLOTS):
        ink = _resample(
            handwriting()[placements.sources[:, slot]],
            placements.center_rows[:, slot],
            placements.center_columns[:, slot],
            placements.heights[:, slot],
            placements.widths[:, slot],
        )
        ink *= placements.present[:, slot, None, None]
        image, opacity = _blend(image, ink, placements.brightness[:, slot])
        owner[opacity > _COVERS] = slot
    return image, owner


def visible_areas(placements: Placements, owner: np.ndarray) -> np.ndarray:
    """Counts visible pixels by class: `[N, 10]` int32 from `paint`'s owners, 0 where there are fewer than 8."""
    areas = np.zeros((len(owner), NUM_CLASSES), np.int32)
    pixels = np.stack([(owner == slot).sum(axis=(1, 2)) for slot in range(SLOTS)], axis=1)
    np.put_along_axis(areas, placements.classes, np.where(pixels >= MIN_VISIBLE, pixels, 0), axis=1)
    return areas


def _draw_background(num_scenes: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """Draws a smooth random field with fragments of the split's digits: `[N, 48, 48]` float32."""
    middle = np.full(num_scenes, (CANVAS - 1) / 2, np.float32)
    # One cell more than fits, so that the outermost cells are centred on the canvas's edge.
    side = np.full(num_scenes, CANVAS * _BACKGROUND_CELLS / (_BACKGROUND_CELLS - 1), np.float32)
    cells = rng.uniform(*_BACKGROUND, (num_scenes, _BACKGROUND_CELLS, _BACKGROUND_CELLS)).astype(np.float32)
    image = _resample(cells, middle, middle, side, side)
    pool = np.concatenate(source_digits(split))
    for _ in range(_FRAGMENTS):
        digits = handwriting()[pool[rng.integers(len(pool), size=num_scenes)]]
        top, left = rng.integers(digits.shape[1] - _FRAGMENT_CELLS + 1, size=(2, num_scenes, 1))
        window = np.arange(_FRAGMENT_CELLS)
        fragments = digits[np.arange(num_scenes)[:, None, None], (top + window)[:, :, None], (left + window)[:, None]]
        rows, columns = rng.uniform(0, CANVAS, (2, num_scenes)).astype(np.float32)
        sizes = _log_uniform(rng, _FRAGMENT_SIZES, num_scenes).astype(np.float32)
        brightness = rng.uniform(*_BRIGHTNESS, num_scenes).astype(np.float32)
        image, _ = _blend(image, _resample(fragments, rows, columns, sizes, sizes), brightness)
    return image


def _blend(image: np.ndarray, ink: np.ndarray, brightness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    opacity = np.minimum(_OPACITY * ink, 1)
    return image + opacity * (brightness[:, None, None] - image), opacity


def _resample(
    patches: np.ndarray, rows: np.ndarray, columns: np.ndarray, heights: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """Stretches `[N, n, n]` patches bilinearly to heights x widths pixels, centred at (rows, columns) of the canvas."""
    vertical = _bilinear_weights(rows, heights, patches.shape[1])
    horizontal = _bilinear_weights(columns, widths, patches.shape[2])
    return vertical @ patches @ horizontal.transpose(0, 2, 1)


def _bilinear_weights(centers: np.ndarray, sizes: np.ndarray, num_cells: int) -> np.ndarray:
    """`[N, 48, num_cells]`: how much each cell, spread over `sizes` pixels, counts at each pixel of one axis."""
    pixels = np.arange(CANVAS, dtype=np.float32)
    positions = (pixels - centers[:, None]) * (num_cells / sizes[:, None]) + (num_cells - 1) / 2
    return np.maximum(0, 1 - np.abs(positions[:, :, None] - np.arange(num_cells, dtype=np.float32)))


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float], shape: int | tuple[int, ...]) -> np.ndarray:
    low, high = bounds
    return low * (high / low) ** rng.random(shape)
