"""Random colours and blur of images, in two steps: what is drawn for a batch of views, and what is done to each."""

import itertools

import numpy as np
import tensorflow as tf

# `crop`
BRIGHTNESS_RANGE = 0.2
CONTRAST_RANGE = (0.8, 1.25)
# `simclr`: the kinds and probabilities of SimCLR (arXiv 2002.05709), the strengths of MoCo v2 (arXiv 2003.04297)
JITTER_PROBABILITY, GRAY_PROBABILITY, BLUR_PROBABILITY = 0.8, 0.2, 0.5
JITTER = 0.4  # of brightness, contrast and saturation
HUE_JITTER = 0.1  # of the full turn
BLUR_SIGMA = (0.1, 2.0)  # in pixels of the view
BLUR_REACH = 3  # in sigmas
NUM_COLOUR_DRAWS = 9

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)

Settings = dict[str, tf.Tensor]


def brightness_and_contrast_settings(draws: tf.Tensor) -> Settings:
    """Contrast 0.8 to 1.25, and brightness up to 0.2 of the full range either way; draws `[2, N]`."""
    log_contrast = tf.math.log(CONTRAST_RANGE[0]) + draws[0] * tf.math.log(CONTRAST_RANGE[1] / CONTRAST_RANGE[0])
    return {"contrast": tf.exp(log_contrast), "brightness": 255.0 * BRIGHTNESS_RANGE * (2.0 * draws[1] - 1.0)}


def brightness_and_contrast(views: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Changes each view's contrast about its mean, and shifts it.

    Args:
        views: `[N, H, W, channels]` float32, 0 to 255.
        settings: "contrast" and "brightness", `[N]`.
    """
    contrast, brightness = (settings[name][:, None, None, None] for name in ("contrast", "brightness"))
    mean = tf.reduce_mean(views, axis=(1, 2, 3), keepdims=True)
    return tf.clip_by_value((views - mean) * contrast + mean + brightness, 0.0, 255.0)


def colour_and_blur_settings(draws: tf.Tensor) -> Settings:
    """SimCLR's colour jitter (0.4, 0.4, 0.4, 0.1; p 0.8), grayscale (p 0.2) and Gaussian blur (sigma 0.1 to 2; p 0.5).

    Jitter and grayscale are one affine map of a view's colours c [3], so that each pixel is touched once:
    c -> c @ colour + mean @ pull, mean being that of the view. For the four changes of the jitter, in an order drawn for
    each view, are affine themselves: brightness scales, contrast pulls to the view's mean gray, saturation to the pixel's
    gray, hue turns the IQ plane of YIQ. The result is clipped once; SimCLR clips after each change.

    Args:
        draws: `[9, N]`.
    """
    factors = (1.0 + JITTER * (2.0 * draws[:3] - 1.0))[:, :, None, None]
    angle = 2 * np.pi * HUE_JITTER * (2.0 * draws[3] - 1.0)
    identity, gray = tf.eye(3), tf.constant(np.tile(_LUMA[:, None], (1, 3)))  # c @ gray is the gray of c
    zero, one = tf.zeros_like(angle), tf.ones_like(angle)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    turn = tf.reshape(tf.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], axis=-1), (-1, 3, 3))
    hue = tf.constant(_TO_YIQ.T) @ turn @ tf.constant(np.linalg.inv(_TO_YIQ.T).astype(np.float32))
    saturation = factors[2] * identity + (1.0 - factors[2]) * gray
    maps = tf.stack([factors[0] * identity, factors[1] * identity, saturation, hue], axis=1)  # [N, 4, 3, 3]
    none = tf.zeros_like(hue)
    pulls = tf.stack([none, (1.0 - factors[1]) * gray, none, none], axis=1)
    order = tf.gather(_ORDERS, tf.cast(draws[4] * len(_ORDERS), tf.int32))  # [N, 4]
    maps, pulls = (tf.gather(each, order, batch_dims=1) for each in (maps, pulls))
    colour, pull = none + identity, none
    for change in range(4):  # the mean has gone through the earlier changes too: it is now mean @ (colour + pull)
        pull = pull @ maps[:, change] + (colour + pull) @ pulls[:, change]
        colour = colour @ maps[:, change]
    jittered, grayed = (draws[5] < JITTER_PROBABILITY)[:, None, None], (draws[6] < GRAY_PROBABILITY)[:, None, None]
    colour, pull = tf.where(jittered, colour, identity), tf.where(jittered, pull, none)
    colour, pull = tf.where(grayed, colour @ gray, colour), tf.where(grayed, pull @ gray, pull)
    return {
        "colour": colour,
        "pull": pull,
        "blurred": draws[7] < BLUR_PROBABILITY,
        "sigma": BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * draws[8],
    }


def colour_and_blur(views: tf.Tensor, settings: Settings) -> tf.Tensor:
    """Changes each view's colours, and blurs some.

    Args:
        views: `[N, H, W, channels]` float32, 0 to 255; views of one channel are blurred only.
        settings: "colour" and "pull" `[N, 3, 3]`, "blurred" and "sigma" `[N]`.
    """
    if views.shape[-1] == 3:
        # Means and sums go along whole rows of pixels: along 3 channels they take several times as long.
        shape = tf.shape(views)
        count, height, width = shape[0], shape[1], shape[2]
        mean_row = tf.reduce_mean(tf.reshape(views, (count, height, 3 * width)), axis=1)
        mean = tf.reduce_mean(tf.reshape(mean_row, (count, width, 3)), axis=1, keepdims=True)
        offset = tf.tile(mean @ settings["pull"], (1, 1, width))
        coloured = tf.reshape(views, (count, -1, 3)) @ settings["colour"]
        coloured = tf.reshape(coloured, (count, height, 3 * width)) + offset
        views = tf.reshape(tf.clip_by_value(coloured, 0.0, 255.0), shape)
    chosen = tf.where(settings["blurred"])

    def some_blurred() -> tf.Tensor:
        blurred = _gaussian_blur(tf.gather_nd(views, chosen), tf.gather_nd(settings["sigma"], chosen))
        return tf.tensor_scatter_nd_update(views, chosen, blurred)

    return tf.cond(tf.reduce_any(settings["blurred"]), some_blurred, lambda: views)


def _gaussian_blur(views: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """`[M, H, W, channels]` by `[M]` sigmas, along columns, then rows; what lies outside the view has no weight."""
    count, height, width, channels = tf.unstack(tf.shape(views))
    reach = tf.cast(tf.math.ceil(BLUR_REACH * tf.reduce_max(sigma)), tf.int32)
    distances = tf.cast(tf.range(-reach, reach + 1), tf.float32)
    taps = tf.exp(-(distances[:, None] ** 2) / (2 * sigma[None, :] ** 2))  # [taps, M]
    taps = tf.where(tf.abs(distances)[:, None] <= BLUR_REACH * sigma[None, :], taps, 0.0)
    taps = tf.repeat(taps, channels, axis=1)[None, :, :, None]  # the channels of all views side by side

    def along(planes: tf.Tensor, axis: int) -> tf.Tensor:
        kernel = taps if axis == 2 else tf.transpose(taps, (1, 0, 2, 3))
        return tf.nn.depthwise_conv2d(planes, kernel, (1, 1, 1, 1), "SAME")

    planes = tf.reshape(tf.transpose(views, (1, 2, 0, 3)), (1, height, width, count * channels))
    weight = tf.tile(along(tf.ones((1, height, 1, count * channels)), 1), (1, 1, width, 1))
    blurred = tf.reshape(along(along(planes, 1), 2) / weight, (height, -1))
    blurred /= tf.reshape(along(tf.ones((1, 1, width, count * channels)), 2), (1, -1))  # fast, as it goes along rows
    return tf.transpose(tf.reshape(blurred, (height, width, count, channels)), (2, 0, 1, 3))
