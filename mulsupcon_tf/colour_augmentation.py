"""Random colours and blur of images. Pure functions of draws, uniform numbers in [0, 1)."""

import itertools

import numpy as np
import tensorflow as tf

# `crop`
BRIGHTNESS_RANGE = 0.2
CONTRAST_RANGE = (0.8, 1.25)
# `simclr`, as SimCLR (arXiv 2002.05709) and MoCo v2 have it
JITTER_PROBABILITY, GRAY_PROBABILITY, BLUR_PROBABILITY = 0.8, 0.2, 0.5
JITTER = 0.4  # of brightness, contrast and saturation
HUE_JITTER = 0.1  # of the full turn
BLUR_SIGMA = (0.1, 2.0)  # in pixels of the view
BLUR_REACH = 3  # in sigmas
NUM_COLOUR_DRAWS = 9

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_TO_YIQ = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]], np.float32)
_ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)


def brightness_and_contrast(views: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Changes each view's contrast about its mean by 0.8 to 1.25, and shifts it by up to 0.2 of the full range.

    Args:
        views: `[N, H, W, channels]` float32, 0 to 255.
        draws: `[2, N]`.
    """
    log_contrast = tf.math.log(CONTRAST_RANGE[0]) + draws[0] * tf.math.log(CONTRAST_RANGE[1] / CONTRAST_RANGE[0])
    brightness = 255.0 * BRIGHTNESS_RANGE * (2.0 * draws[1] - 1.0)
    mean = tf.reduce_mean(views, axis=(1, 2, 3), keepdims=True)
    views = (views - mean) * tf.exp(log_contrast)[:, None, None, None] + mean + brightness[:, None, None, None]
    return tf.clip_by_value(views, 0.0, 255.0)


def colour_and_blur(views: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """SimCLR's colour jitter (0.4, 0.4, 0.4, 0.1; p 0.8), grayscale (p 0.2) and Gaussian blur (sigma 0.1 to 2; p 0.5).

    Args:
        views: `[N, H, W, channels]` float32, 0 to 255; views of one channel are blurred only.
        draws: `[9, N]`.
    """
    if views.shape[-1] == 3:
        views = _recolour(views, draws[:7])
    return blur_some(views, draws[7:])


def _recolour(views: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Jitter and grayscale as one affine map of each view's colours, so that each pixel is touched once.

    The four changes of the jitter, in an order drawn for each view, are affine maps themselves: brightness scales,
    contrast pulls to the view's mean gray, saturation to the pixel's gray, hue turns the IQ plane of YIQ. They are
    composed before they meet a pixel, and the result is clipped once; SimCLR clips after each of them.

    Args:
        views: `[N, H, W, 3]` float32.
        draws: `[7, N]`.
    """
    factors = 1.0 + JITTER * (2.0 * draws[:3] - 1.0)
    angle = 2 * np.pi * HUE_JITTER * (2.0 * draws[3] - 1.0)
    mean = tf.reduce_mean(views, axis=(1, 2))  # [N, 3]
    identity = tf.eye(3, batch_shape=[tf.shape(views)[0]])
    gray = tf.constant(np.tile(_LUMA[:, None], (1, 3)))  # colours are rows here: c @ gray is the gray of c
    zero = tf.zeros_like(identity)
    brightness = factors[0, :, None, None] * identity
    contrast = factors[1, :, None, None] * identity
    saturation = factors[2, :, None, None] * identity + (1 - factors[2])[:, None, None] * gray
    cosine, sine, one = tf.cos(angle), tf.sin(angle), tf.ones_like(angle)
    turn = tf.stack([one, 0 * one, 0 * one, 0 * one, cosine, -sine, 0 * one, sine, cosine], axis=-1)
    to_yiq = tf.constant(_TO_YIQ.T)
    hue = to_yiq @ tf.reshape(turn, (-1, 3, 3)) @ tf.constant(np.linalg.inv(_TO_YIQ.T).astype(np.float32))
    # Contrast alone adds something: (1 - factor) times the mean gray of what it is given, which is affine in the mean.
    matrices = tf.stack([brightness, contrast, saturation, hue], axis=1)  # [N, 4, 3, 3]
    pulls = tf.stack([zero, (1 - factors[1])[:, None, None] * gray, zero, zero], axis=1)
    order = tf.gather(_ORDERS, tf.cast(draws[4] * len(_ORDERS), tf.int32))  # [N, 4]
    matrices, pulls = (tf.gather(each, order, batch_dims=1) for each in (matrices, pulls))
    total, offset = identity, tf.zeros_like(mean)[:, None, :]
    for step in range(4):
        mean_now = mean[:, None, :] @ total + offset
        offset = offset @ matrices[:, step] + mean_now @ pulls[:, step]
        total = total @ matrices[:, step]
    jittered = (draws[5] < JITTER_PROBABILITY)[:, None, None]
    total, offset = tf.where(jittered, total, identity), tf.where(jittered, offset, tf.zeros_like(offset))
    grayed = (draws[6] < GRAY_PROBABILITY)[:, None, None]
    total, offset = tf.where(grayed, total @ gray, total), tf.where(grayed, offset @ gray, offset)
    shape = tf.shape(views)
    recoloured = tf.reshape(views, (shape[0], -1, 3)) @ total + offset
    return tf.reshape(tf.clip_by_value(recoloured, 0.0, 255.0), shape)


def blur_some(views: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Blurs each view with probability 0.5 by a Gaussian of a sigma of its own.

    Args:
        views: `[N, H, W, channels]` float32.
        draws: `[2, N]`.
    """
    chosen = tf.where(draws[0] < BLUR_PROBABILITY)
    sigma = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * tf.gather(draws[1], chosen[:, 0])

    def blurred() -> tf.Tensor:
        return tf.tensor_scatter_nd_update(views, chosen, _gaussian_blur(tf.gather_nd(views, chosen), sigma))

    return tf.cond(tf.size(chosen) > 0, blurred, lambda: views)


def _gaussian_blur(views: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """`[M, H, W, channels]` by `[M]` sigmas, along columns, then rows; what lies outside the view has no weight."""
    count, height, width, channels = tf.unstack(tf.shape(views))
    reach = tf.cast(tf.math.ceil(BLUR_REACH * tf.reduce_max(sigma)), tf.int32)
    distances = tf.cast(tf.range(-reach, reach + 1), tf.float32)
    kernels = tf.exp(-(distances[:, None] ** 2) / (2 * sigma[None, :] ** 2))  # [taps, M]
    kernels = tf.repeat(kernels, channels, axis=1)[:, None, :, None]
    planes = tf.reshape(tf.transpose(views, (1, 2, 0, 3)), (1, height, width, count * channels))
    for length, axis in ((height, 0), (width, 1)):
        taps = kernels if axis == 0 else tf.transpose(kernels, (1, 0, 2, 3))
        ones = tf.ones(tf.concat([[1], [length, 1] if axis == 0 else [1, length], [count * channels]], 0))
        planes, weight = (tf.nn.depthwise_conv2d(each, taps, (1, 1, 1, 1), "SAME") for each in (planes, ones))
        planes = planes / weight
    return tf.transpose(tf.reshape(planes, (height, width, count, channels)), (2, 0, 1, 3))
