import itertools

import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.input_pipeline.colour import (
    NUM_COLOUR_DRAWS,
    brightness_and_contrast,
    colour_and_blur,
    colour_and_blur_settings,
)

LUMA = np.array([0.299, 0.587, 0.114])
TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
ORDERS = list(itertools.permutations(range(4)))
NEVER_JITTERED, NEVER_GRAYED, NEVER_BLURRED = 0.9, 0.9, 0.9


def draws(count, seed=0, **fixed):
    """`[9, N]`; named rows may be fixed."""
    rows = ("brightness", "contrast", "saturation", "hue", "order", "jittered", "grayed", "blurred", "sigma")
    values = np.random.default_rng(seed).random((NUM_COLOUR_DRAWS, count)).astype(np.float32)
    for name, value in fixed.items():
        values[rows.index(name)] = value
    return values


def changed(views, numbers):
    return colour_and_blur(tf.constant(views, tf.float32), colour_and_blur_settings(tf.constant(numbers))).numpy()


def quiet_views(count, side=9, seed=0):
    """Far from 0 and 255, so that nothing is clipped."""
    return np.random.default_rng(seed).uniform(110, 140, size=(count, side, side + 2, 3))


def one_by_one(view, numbers):
    """The jitter in float64, change after change."""
    brightness, contrast, saturation = 1 + 0.4 * (2 * numbers[:3].astype(np.float64) - 1)
    angle = 0.1 * 2 * np.pi * (2 * float(numbers[3]) - 1)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    for change in ORDERS[int(numbers[4] * 24)]:
        if change == 0:
            view = view * brightness
        elif change == 1:
            view = contrast * view + (1 - contrast) * (view @ LUMA).mean()
        elif change == 2:
            view = saturation * view + (1 - saturation) * (view @ LUMA)[..., None]
        else:
            view = view @ (np.linalg.inv(TO_YIQ) @ turn.T @ TO_YIQ).T
    return view


def test_the_one_affine_map_is_the_four_changes_one_after_the_other():
    numbers = draws(200, jittered=0.1, grayed=NEVER_GRAYED, blurred=NEVER_BLURRED)
    views = quiet_views(200)
    expected = np.stack([one_by_one(view, numbers[:, n]) for n, view in enumerate(views)])
    inside = (expected > 0).all((1, 2, 3)) & (expected < 255).all((1, 2, 3))
    assert inside.mean() > 0.9
    np.testing.assert_allclose(changed(views, numbers)[inside], expected[inside], atol=2e-3)
    assert {int(order * 24) for order in numbers[4]} == set(range(24))


def test_without_jitter_gray_and_blur_a_view_stays_what_it_is():
    numbers = draws(8, jittered=NEVER_JITTERED, grayed=NEVER_GRAYED, blurred=NEVER_BLURRED)
    np.testing.assert_allclose(changed(quiet_views(8), numbers), quiet_views(8), rtol=1e-5)


def test_a_grayed_view_has_the_luma_of_the_jittered_one_in_all_channels():
    views = quiet_views(30)
    coloured, gray = (changed(views, draws(30, grayed=value, blurred=NEVER_BLURRED)) for value in (0.9, 0.1))
    np.testing.assert_allclose(gray, np.repeat((coloured @ LUMA)[..., None], 3, -1), atol=1e-3)


def test_the_shares_of_jitter_gray_and_blur_are_those_of_simclr():
    settings = {name: value.numpy() for name, value in colour_and_blur_settings(tf.constant(draws(4000))).items()}
    unjittered = np.abs(settings["pull"]).max((1, 2)) == 0
    gray = np.ptp(settings["colour"], axis=2).max(1) < 1e-6
    for share, expected in ((unjittered.mean(), 0.2), (gray.mean(), 0.2), (settings["blurred"].mean(), 0.5)):
        assert share == pytest.approx(expected, abs=0.03)
    assert 0.1 <= settings["sigma"].min() < 0.11
    assert 1.99 < settings["sigma"].max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.35, 0.9999])
def test_blur_is_the_naive_weighted_mean_of_the_neighbours(channels, share):
    views = np.random.default_rng(1).uniform(0, 255, size=(3, 17, 12, channels)).astype(np.float32)
    numbers = draws(3, jittered=NEVER_JITTERED, grayed=NEVER_GRAYED, sigma=share)
    numbers[7] = [0.2, 0.9, 0.3]  # the second is not blurred
    got, sigma = changed(views, numbers), 0.1 + 1.9 * share
    np.testing.assert_allclose(got[1], views[1], rtol=1e-5)
    for n in (0, 2):
        expected = np.zeros_like(views[n], np.float64)
        for i, j in np.ndindex(17, 12):
            reach = int(3 * sigma)
            rows = np.arange(max(0, i - reach), min(17, i + reach + 1))
            columns = np.arange(max(0, j - reach), min(12, j + reach + 1))
            weights = np.exp(-((rows[:, None] - i) ** 2 + (columns[None] - j) ** 2) / (2 * sigma**2))
            block = views[n][rows[:, None], columns[None]]
            expected[i, j] = (weights[..., None] * block).sum((0, 1)) / weights.sum()
        np.testing.assert_allclose(got[n], expected, atol=1e-2)


def test_each_view_is_blurred_by_itself_whatever_is_beside_it():
    views, numbers = quiet_views(6, side=20), draws(6, blurred=0.1)
    numbers[8] = np.linspace(0.05, 0.99, 6)
    together = changed(views, numbers)
    alone = np.concatenate([changed(views[n : n + 1], numbers[:, n : n + 1]) for n in range(6)])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_changed_views_stay_in_the_range_of_pixels():
    views = np.random.default_rng(2).integers(0, 2, size=(100, 8, 8, 3)) * 255.0
    got = changed(views, draws(100))
    assert got.dtype == np.float32
    assert got.min() >= 0
    assert got.max() <= 255 + 1e-3


def test_brightness_and_contrast_change_mean_and_deviation():
    views = tf.constant(quiet_views(2), tf.float32)
    settings = {"contrast": tf.constant([0.8, 1.25]), "brightness": tf.constant([51.0, -51.0])}
    got = brightness_and_contrast(views, settings).numpy()
    np.testing.assert_allclose(got.mean((1, 2, 3)), views.numpy().mean((1, 2, 3)) + np.array([51, -51]), rtol=1e-4)
    np.testing.assert_allclose(got.std((1, 2, 3)), views.numpy().std((1, 2, 3)) * [0.8, 1.25], rtol=1e-4)
