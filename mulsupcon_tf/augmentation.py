"""Random views of samples, for vectors and for images. Pure functions of draws, uniform numbers in [0, 1)."""

import tensorflow as tf

from mulsupcon_tf.colour_augmentation import NUM_COLOUR_DRAWS, brightness_and_contrast, colour_and_blur
from mulsupcon_tf.image_decoding import largest_shrink

MASK_PROBABILITY = 0.5
# `crop`: in scenes with several things a smaller crop would often lose one of them while its label stays.
SCENE_AREA = (0.5, 1.0)
SCENE_ASPECT = (0.8, 1.25)
# `simple` and `simclr`: as in SupCon (arXiv 2004.11362) and MoCo (arXiv 1911.05722).
PHOTO_AREA = (0.2, 1.0)
PHOTO_ASPECT = (3 / 4, 4 / 3)
PHOTO_TRIALS = 10
_INSIDE = 1e-6


def mask_features(features: tf.Tensor, fill: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Replaces each feature, with probability 0.5 and independently, by its mean over train.

    After standardisation a masked feature is exactly 0, as in MulSupCon (AAAI 2024).

    Args:
        features: `[B, F]`, not standardised.
        fill: `[F]`, the mean over train.
        draws: `[B, F]`.
    """
    return tf.where(draws < MASK_PROBABILITY, fill[None, :], features)


class ImageAugmentation:
    """Views of images: a crop of random place, size and shape, resized; then random colours.

    - `crop`: area 0.5 to 1 of the image, sides' ratio changed by 0.8 to 1.25, brightness and contrast; never mirrored.
    - `simple`: area 0.2 to 1, width to height 3/4 to 4/3, mirrored in half of the views; colours as they are.
    - `simclr`: the same, and colour jitter, grayscale and Gaussian blur (arXiv 2002.05709); images of one channel are
      blurred only.

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

    def boxes(self, draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        """Where the views lie in an image, and whether they are mirrored.

        Args:
            draws: `[num_draws, N]`.
            height: of the image, or of all images.
            width: likewise.

        Returns:
            `[N, 4]` top, left, bottom, right as shares of the sides; left and right exchanged where the view is mirrored.
        """
        if self.name == "crop":
            return _scene_boxes(draws)
        return _photo_boxes(draws, tf.cast(height, tf.float32), tf.cast(width, tf.float32))

    def views_of_batch(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """One view of each image.

        Args:
            images: `[N, H, W, channels]`, pixel values 0 to 255, not much larger than the views: no smoothing is done.
            draws: `[num_draws, N]`.

        Returns:
            `[N, *size, channels]` float32, 0 to 255.
        """
        boxes = self.boxes(draws, tf.shape(images)[1], tf.shape(images)[2])
        # What is read beyond the border is black, and rounding would get there from a box that ends on it.
        boxes = tf.clip_by_value(boxes, _INSIDE, 1.0 - _INSIDE)
        views = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, tf.range(tf.shape(images)[0]), self.size)
        return self._recoloured(views, draws)

    def views_of_image(self, image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """Several views of one image, which may be much larger than they are.

        Args:
            image: `[H, W, channels]` uint8.
            draws: `[num_draws, N]`, N known.

        Returns:
            `[N, *size, channels]` float32, 0 to 255.
        """
        boxes = self.boxes(draws, tf.shape(image)[0], tf.shape(image)[1])
        views = tf.stack([self._cut(image, box) for box in tf.unstack(boxes, num=draws.shape[1])])
        return self._recoloured(views, draws)

    def shrink(self, draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
        """By how much a JPEG may shrink so that each of its views still has a pixel for each of its own."""
        boxes = self.boxes(draws, height, width)
        rows = (boxes[:, 2] - boxes[:, 0]) * tf.cast(height, tf.float32) / self.size[0]
        columns = tf.abs(boxes[:, 3] - boxes[:, 1]) * tf.cast(width, tf.float32) / self.size[1]
        return largest_shrink(tf.minimum(tf.reduce_min(rows), tf.reduce_min(columns)))

    def _cut(self, image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
        """Cuts whole pixels and resizes; smoothly, which takes longer, where several pixels make one."""
        height, width = tf.shape(image)[0], tf.shape(image)[1]
        sides = tf.cast(tf.stack([height, width, height, width]), tf.float32)
        left, right = tf.minimum(box[1], box[3]), tf.maximum(box[1], box[3])
        edges = tf.cast(tf.round(tf.stack([box[0], left, box[2], right]) * sides), tf.int32)
        first = tf.minimum(edges[:2], (height - 1, width - 1))
        last = tf.maximum(edges[2:], first + 1)
        crop = image[None, first[0] : last[0], first[1] : last[1]]
        smooth = tf.reduce_any(last - first >= 2 * tf.constant(self.size))
        view = tf.cond(
            smooth, lambda: tf.image.resize(crop, self.size, antialias=True), lambda: tf.image.resize(crop, self.size)
        )
        return tf.cond(box[1] > box[3], lambda: tf.reverse(view, (2,)), lambda: view)[0]

    def _recoloured(self, views: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        draws = draws[self._num_box_draws :]
        if self.name == "crop":
            return brightness_and_contrast(views, draws)
        return colour_and_blur(views, draws) if self.name == "simclr" else views


def _scene_boxes(draws: tf.Tensor) -> tf.Tensor:
    area = SCENE_AREA[0] + draws[0] * (SCENE_AREA[1] - SCENE_AREA[0])
    log_aspect = tf.math.log(SCENE_ASPECT[0]) + draws[1] * tf.math.log(SCENE_ASPECT[1] / SCENE_ASPECT[0])
    height = tf.minimum(tf.sqrt(area * tf.exp(-log_aspect)), 1.0)
    width = tf.minimum(tf.sqrt(area * tf.exp(log_aspect)), 1.0)
    top, left = draws[2] * (1.0 - height), draws[3] * (1.0 - width)
    return tf.stack([top, left, top + height, left + width], axis=1)


def _photo_boxes(draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """The first of ten boxes that fits into the image; where none does, the middle, as long as the aspect allows."""
    trials = tf.reshape(draws[3 : 3 + 2 * PHOTO_TRIALS], (PHOTO_TRIALS, 2, -1))
    area = (PHOTO_AREA[0] + trials[:, 0] * (PHOTO_AREA[1] - PHOTO_AREA[0])) * height * width
    aspect = tf.exp(tf.math.log(PHOTO_ASPECT[0]) + trials[:, 1] * tf.math.log(PHOTO_ASPECT[1] / PHOTO_ASPECT[0]))
    sides = tf.stack([tf.sqrt(area / aspect) / height, tf.sqrt(area * aspect) / width], axis=-1)  # [trials, N, 2]
    fits = tf.reduce_all(sides <= 1.0, axis=-1)
    first = tf.argmax(fits, axis=0, output_type=tf.int32)
    chosen = tf.gather(tf.transpose(sides, (1, 0, 2)), first, batch_dims=1)
    middle = tf.stack([width / (PHOTO_ASPECT[0] * height), height * PHOTO_ASPECT[1] / width])
    fitted = tf.reduce_any(fits, axis=0)[:, None]
    chosen = tf.where(fitted, chosen, tf.minimum(middle, 1.0)[None])
    places = tf.where(fitted, tf.transpose(draws[:2]), 0.5) * (1.0 - chosen)
    top, left = places[:, 0], places[:, 1]
    bottom, right = top + chosen[:, 0], left + chosen[:, 1]
    mirrored = draws[2] < 0.5
    return tf.stack([top, tf.where(mirrored, right, left), bottom, tf.where(mirrored, left, right)], axis=1)
