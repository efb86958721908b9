"""Seeded views of a batch, for images and for vectors. Stateless: the same seed gives the same view."""

import tensorflow as tf

MASK_PROBABILITY = 0.5
CROP_AREA = (0.5, 1.0)
CROP_ASPECT = (0.8, 1.25)
BRIGHTNESS_RANGE = 0.2
CONTRAST_RANGE = (0.8, 1.25)


def mask_features(features: tf.Tensor, fill: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Replaces each feature, with probability 0.5 and independently, by its mean over train.

    After standardisation a masked feature is exactly 0, as in MulSupCon (AAAI 2024).

    Args:
        features: `[B, F]`, not standardised.
        fill: `[F]`, the mean over train.
        seed: `[2]` int64.
    """
    masked = tf.random.stateless_uniform(tf.shape(features), seed) < MASK_PROBABILITY
    return tf.where(masked, fill[None, :], features)


def random_crop(images: tf.Tensor, size: tuple[int, int], seed: tf.Tensor, *, flip: bool) -> tf.Tensor:
    """Random resized crop and brightness and contrast jitter; a box and a jitter of its own for each image.

    The crop has an area of 0.5 to 1 of the image and a side ratio of 0.8 to 1.25: in scenes with several things a
    smaller crop would often lose one of them while its label stays.

    Args:
        images: `[B, H, W, channels]`, pixel values 0 to 255.
        size: height and width of the result in pixels.
        seed: `[2]` int64.
        flip: whether half of the views are mirrored left to right.

    Returns:
        `[B, *size, channels]` float32, 0 to 255.
    """
    count = tf.shape(images)[0]
    draws = tf.random.stateless_uniform([7, count], seed)
    area = CROP_AREA[0] + draws[0] * (CROP_AREA[1] - CROP_AREA[0])
    log_aspect = tf.math.log(CROP_ASPECT[0]) + draws[1] * tf.math.log(CROP_ASPECT[1] / CROP_ASPECT[0])
    height = tf.minimum(tf.sqrt(area * tf.exp(-log_aspect)), 1.0)
    width = tf.minimum(tf.sqrt(area * tf.exp(log_aspect)), 1.0)
    top, left = draws[2] * (1.0 - height), draws[3] * (1.0 - width)
    right = left + width
    if flip:  # a box whose right side is left of its left side is read mirrored
        mirrored = draws[4] < 0.5
        left, right = tf.where(mirrored, right, left), tf.where(mirrored, left, right)
    # What is read beyond the border is black, and rounding would get there from a box that ends on it.
    boxes = tf.clip_by_value(tf.stack([top, left, top + height, right], axis=1), 1e-6, 1.0 - 1e-6)
    views = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, tf.range(count), size)
    log_contrast = tf.math.log(CONTRAST_RANGE[0]) + draws[5] * tf.math.log(CONTRAST_RANGE[1] / CONTRAST_RANGE[0])
    brightness = 255.0 * BRIGHTNESS_RANGE * (2.0 * draws[6] - 1.0)
    mean = tf.reduce_mean(views, axis=(1, 2, 3), keepdims=True)
    views = (views - mean) * tf.exp(log_contrast)[:, None, None, None] + mean + brightness[:, None, None, None]
    return tf.clip_by_value(views, 0.0, 255.0)
