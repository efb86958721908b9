"""Random views of samples, for vectors and for images. Pure functions of draws, uniform numbers in [0, 1)."""

import tensorflow as tf

from mulsupcon_tf.input_pipeline.colour import (
    NUM_COLOUR_DRAWS,
    Settings,
    brightness_and_contrast,
    brightness_and_contrast_settings,
    colour_and_blur,
    colour_and_blur_settings,
)
from mulsupcon_tf.input_pipeline.decoding import DecodingPlan, largest_shrink

# `crop`: in scenes with several things a smaller crop would often lose one of them while its label stays.
SCENE_AREA = (0.5, 1.0)
SCENE_ASPECT = (0.8, 1.25)
# `simple` and `simclr`: as in SupCon (arXiv 2004.11362) and MoCo (arXiv 1911.05722).
PHOTO_AREA = (0.2, 1.0)
PHOTO_ASPECT = (3 / 4, 4 / 3)
PHOTO_TRIALS = 10
_INSIDE = 1e-6
# Pixels of the crop to one of the view, along a side, from which a view is resized smoothly. It takes four times as long
# as reading between the four nearest pixels, which leaves a little aliasing below that.
SMOOTH_FROM = 3


def mask_features(features: tf.Tensor, fill: tf.Tensor, draws: tf.Tensor, rate: float) -> tf.Tensor:
    """Replaces each feature, with probability `rate` and independently, by its mean over train.

    After standardisation a masked feature is exactly 0, as in MulSupCon (AAAI 2024).

    Args:
        features: `[B, F]`, not standardised.
        fill: `[F]`, the mean over train.
        draws: `[B, F]` in [0, 1).
        rate: in [0, 1].
    """
    return tf.where(draws < rate, fill[None, :], features)


class ImageAugmentation:
    """Views of images: a crop of random place, size and shape, resized; then random colours.

    - `crop`: area 0.5 to 1 of the image, sides' ratio changed by 0.8 to 1.25, brightness and contrast; never mirrored.
    - `simple`: area 0.2 to 1, width to height 3/4 to 4/3, mirrored in half of the views; colours as they are.
    - `simclr`: the same, and colour jitter, grayscale and Gaussian blur (arXiv 2002.05709); images of one channel are
      blurred only.

    What does not depend on the images is computed beforehand, for a whole batch at once: many small operations for each
    image would take longer than its pixels.

    Args:
        name: "crop", "simple" or "simclr".
        size: height and width of the views in pixels.
    """

    def __init__(self, name: str, size: tuple[int, int]):
        self.name, self.size = name, size
        # `crop` leaves one draw unused, so that the views of earlier versions stay what they were.
        self._num_box_draws = 5 if name == "crop" else 3 + 2 * PHOTO_TRIALS
        self._num_colour_draws = {"crop": 2, "simple": 0, "simclr": NUM_COLOUR_DRAWS}[name]

    @property
    def num_draws(self) -> int:
        """Random numbers that one view takes."""
        return self._num_box_draws + self._num_colour_draws

    def settings(self, draws: tf.Tensor) -> Settings:
        """What is drawn for N views, by name, each `[N, ...]`.

        Args:
            draws: `[num_draws, N]` uniform in [0, 1).
        """
        boxes, colours = draws[: self._num_box_draws], draws[self._num_box_draws :]
        if self.name == "crop":
            return _scene_boxes(boxes) | brightness_and_contrast_settings(colours)
        return _photo_boxes(boxes) | (colour_and_blur_settings(colours) if self.name == "simclr" else {})

    def views_of_batch(self, images: tf.Tensor, settings: Settings) -> tf.Tensor:
        """One view of each image.

        Args:
            images: `[N, H, W, channels]`, pixel values 0 to 255, not much larger than the views: no smoothing is done.
            settings: of N views.

        Returns:
            `[N, *size, channels]` float32, 0 to 255.
        """
        boxes = self.boxes(settings, tf.shape(images)[1], tf.shape(images)[2])
        # A box whose right side is left of its left side is read mirrored. What is read beyond the border is black, and
        # rounding would get there from a box that ends on it.
        mirrored = tf.where(settings["mirrored"][:, None], tf.gather(boxes, (0, 3, 2, 1), axis=1), boxes)
        mirrored = tf.clip_by_value(mirrored, _INSIDE, 1.0 - _INSIDE)
        views = tf.image.crop_and_resize(
            tf.cast(images, tf.float32), mirrored, tf.range(tf.shape(images)[0]), self.size
        )
        return self._recoloured(views, settings)

    def views_of_image(self, image: tf.Tensor, boxes: tf.Tensor, settings: Settings) -> list[tf.Tensor]:
        """Several views of one image, which may be much larger than they are.

        Args:
            image: `[H, W, channels]` uint8.
            boxes: of N views, N known.
            settings: of the same views.

        Returns:
            N times `[*size, channels]` float32, 0 to 255.
        """
        count = boxes.shape[0]
        sides = tf.shape(image)[:2]
        corners = tf.reshape(boxes, (count, 2, 2)) * tf.cast(sides, tf.float32)
        first, last = tf.unstack(tf.cast(tf.round(corners), tf.int32), axis=1)
        first = tf.minimum(first, sides - 1)
        extents = tf.maximum(last - first, 1)
        smooth = tf.reduce_any(extents >= SMOOTH_FROM * tf.constant(self.size), axis=1)
        parts = zip(
            tf.unstack(tf.pad(first, [[0, 0], [0, 1]])),
            tf.unstack(tf.pad(extents, [[0, 0], [0, 1]], constant_values=image.shape[2])),
            tf.unstack(smooth, num=count),
            tf.unstack(settings["mirrored"], num=count),
            strict=True,
        )
        views = [self._cut(image, *part) for part in parts]
        if self.name == "simple":
            return views
        return tf.unstack(self._recoloured(tf.stack(views), settings), num=count)

    def boxes(self, settings: Settings, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        """`[N, 4]` top, left, bottom, right of the views as shares of the image's sides.

        Args:
            settings: of N views.
            height: of the image, or of all images.
            width: likewise.
        """
        if self.name == "crop":
            sides, places = settings["sides"], settings["places"]
        else:
            sides, places = _fitting_sides(settings, tf.cast(height, tf.float32), tf.cast(width, tf.float32))
        corner = places * (1.0 - sides)
        return tf.concat([corner, corner + sides], axis=1)

    def plan(self, settings: Settings, height: tf.Tensor, width: tf.Tensor) -> DecodingPlan:
        """A JPEG may shrink as long as each view still has a pixel for each of its own; details are the boxes."""
        boxes = self.boxes(settings, height, width)
        sides = (boxes[:, 2:] - boxes[:, :2]) * tf.cast(tf.stack([height, width]), tf.float32)
        return DecodingPlan(largest_shrink(tf.reduce_min(sides / self.size)), boxes)

    def _cut(
        self, image: tf.Tensor, begin: tf.Tensor, extent: tf.Tensor, smooth: tf.Tensor, mirrored: tf.Tensor
    ) -> tf.Tensor:
        """Cuts whole pixels and resizes, bilinearly or, where many pixels make one, by area."""
        crop = tf.ensure_shape(tf.slice(image, begin, extent), (None, None, image.shape[2]))
        crop = tf.cast(crop[None], tf.float32)  # the resize of floats is so much faster than that of bytes that it pays
        view = tf.cond(
            smooth,
            lambda: tf.image.resize(crop, self.size, antialias=True),
            lambda: tf.image.resize(crop, self.size),
        )[0]
        # The resize is symmetric, and the view has fewer pixels to turn than most crops.
        return tf.cond(mirrored, lambda: tf.reverse(view, (1,)), lambda: view)

    def _recoloured(self, views: tf.Tensor, settings: Settings) -> tf.Tensor:
        if self.name == "crop":
            return brightness_and_contrast(views, settings)
        return colour_and_blur(views, settings) if self.name == "simclr" else views


def _scene_boxes(draws: tf.Tensor) -> Settings:
    area = SCENE_AREA[0] + draws[0] * (SCENE_AREA[1] - SCENE_AREA[0])
    log_aspect = tf.math.log(SCENE_ASPECT[0]) + draws[1] * tf.math.log(SCENE_ASPECT[1] / SCENE_ASPECT[0])
    sides = tf.sqrt(area[:, None] * tf.exp(tf.stack([-log_aspect, log_aspect], axis=1)))
    return {
        "sides": tf.minimum(sides, 1.0),
        "places": tf.transpose(draws[2:4]),
        "mirrored": tf.zeros_like(area, tf.bool),
    }


def _photo_boxes(draws: tf.Tensor) -> Settings:
    """Trial boxes, `[N, trials, 2]`, heights and widths as shares of the square root of the image's area."""
    trials = tf.reshape(draws[3:], (PHOTO_TRIALS, 2, -1))
    log_area = tf.math.log(PHOTO_AREA[0] + trials[:, 0] * (PHOTO_AREA[1] - PHOTO_AREA[0]))
    log_aspect = tf.math.log(PHOTO_ASPECT[0]) + trials[:, 1] * tf.math.log(PHOTO_ASPECT[1] / PHOTO_ASPECT[0])
    sides = tf.exp(tf.stack([log_area - log_aspect, log_area + log_aspect], axis=-1) / 2)
    return {
        "trials": tf.transpose(sides, (1, 0, 2)),
        "places": tf.transpose(draws[:2]),
        "mirrored": draws[2] < 0.5,
    }


def _fitting_sides(settings: Settings, height: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The first trial that fits into the image; where none does, its middle, as much as the aspect allows.

    Returns:
        `[N, 2]` height and width as shares of the image's sides, and `[N, 2]` places as shares of what is left.
    """
    half = tf.sqrt(width / height)
    sides = settings["trials"] * tf.stack([half, 1.0 / half])
    fits = tf.reduce_all(sides <= 1.0, axis=-1)
    fitted = tf.reduce_any(fits, axis=1)[:, None]
    chosen = tf.gather(sides, tf.argmax(fits, axis=1, output_type=tf.int32), batch_dims=1)
    middle = tf.minimum(tf.stack([width / (PHOTO_ASPECT[0] * height), height * PHOTO_ASPECT[1] / width]), 1.0)
    return tf.where(fitted, chosen, middle[None]), tf.where(fitted, settings["places"], 0.5)
