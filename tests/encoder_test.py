import keras
import numpy as np
import pytest

from mulsupcon_tf.encoder import (
    Standardisation,
    build_backbone,
    build_projection_head,
    read_standardisation,
    save_weights,
)
from mulsupcon_tf.errors import InputError

RNG = np.random.default_rng(0)


def relu(values):
    return np.maximum(values, 0)


def randomise(model, seed=0):
    """Gives every weight a value of its own, so that none can be left out or mixed up unseen."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for weight in layer.weights:
            values = rng.uniform(0.5, 1.5, weight.shape) if weight.path.endswith(("gamma", "variance")) else None
            weight.assign(rng.normal(size=weight.shape) * 0.1 if values is None else values)


def batch_normalised(x, layer, epsilon=1e-3):
    gamma, beta, mean, variance = (np.asarray(weight, np.float64) for weight in layer.weights)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta


def convolved(x, kernel, stride):
    """ "same" padding: what is missing is added at the bottom and the right first."""
    size, (_, height, width, _) = kernel.shape[0], x.shape
    out = [-(-side // stride) for side in (height, width)]
    pads = [max((o - 1) * stride + size - side, 0) for o, side in zip(out, (height, width), strict=True)]
    x = np.pad(x, [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)])
    y = np.zeros((len(x), *out, kernel.shape[-1]))
    for row in range(out[0]):
        for column in range(out[1]):
            patch = x[:, row * stride : row * stride + size, column * stride : column * stride + size]
            y[:, row, column] = np.tensordot(patch, kernel, axes=3)
    return y


def naive_resnet(model, images, repeats):
    """He et al. 2016 with one convolution as stem; consumes the layers in the order of their making."""

    def in_order_of_making(kind):
        """Keras lists layers by depth; the number in the name is the order of making."""
        numbers = {layer: layer.name.rpartition("_")[2] for layer in model.layers if isinstance(layer, kind)}
        return iter(sorted(numbers, key=lambda layer: int(numbers[layer]) if numbers[layer].isdigit() else 0))

    kernels = in_order_of_making(keras.layers.Conv2D)
    norms = in_order_of_making(keras.layers.BatchNormalization)

    def unit(x, stride=1):
        kernel = np.asarray(next(kernels).kernel, np.float64)
        return batch_normalised(convolved(x, kernel, stride), next(norms))

    x = relu(unit(images / 127.5 - 1, stride=2))
    for stage, count in enumerate(repeats):
        for block in range(count):
            stride = 2 if stage and not block else 1
            y = unit(relu(unit(x, stride)))
            x = relu(y + (unit(x, stride) if stage and not block else x))
    return x.mean((1, 2))


def test_mlp_is_three_dense_layers_on_standardised_features():
    train = (RNG.normal(size=(50, 6)) * 10.0 ** np.arange(-2, 4) + 1).astype(np.float32)
    model = build_backbone("mlp", (6,), train_features=train)
    randomise(model)
    expected = (train - train.mean(0, dtype=np.float64)) / train.std(0, dtype=np.float64)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dense):
            expected = relu(expected @ np.asarray(layer.kernel, np.float64) + np.asarray(layer.bias))
    np.testing.assert_allclose(model.predict(train, verbose=0), expected, rtol=1e-3, atol=1e-4)
    assert [layer.units for layer in model.layers if isinstance(layer, keras.layers.Dense)] == [256, 512, 256]
    assert [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)] == [0.2] * 3


def test_a_constant_feature_is_centred_and_not_blown_up():
    train = RNG.normal(size=(40, 3)).astype(np.float32)
    train[:, 1] = 1234.567
    scaled = build_backbone("mlp", (3,), train_features=train).layers[1]
    test = train[:2].copy()
    test[:, 1] += 0.5
    got = np.asarray(scaled(test))
    np.testing.assert_allclose(got[:, 1], 0.5, atol=1e-3)
    np.testing.assert_allclose(got[:, 0], (test[:, 0] - train[:, 0].mean()) / train[:, 0].std(), rtol=1e-4)


def test_what_vectors_are_standardised_by_is_in_the_file_of_weights_to_the_last_bit(tmp_path):
    train = (RNG.normal(size=(37, 6)) * 10.0 ** np.arange(-2, 4) + 1).astype(np.float32)
    train[:, 2] = 5
    model, path = build_backbone("mlp", (6,), train_features=train), tmp_path / "encoder.weights.h5"
    save_weights(model, path)
    stored = read_standardisation(path)
    for one, other in zip(stored, Standardisation.of(train), strict=True):
        np.testing.assert_array_equal(one, other)
    again = build_backbone("mlp", (6,), standardisation=stored)
    again.load_weights(path)
    np.testing.assert_array_equal(model.predict(train, verbose=0), again.predict(train, verbose=0))
    save_weights(build_backbone("resnet8", (16, 16, 3)), path)
    assert read_standardisation(path) is None


def test_a_feature_at_its_train_mean_becomes_exactly_0():
    train = (RNG.normal(size=(37, 20)) * 1e3 + 1e4).astype(np.float32)
    scaled = build_backbone("mlp", (20,), train_features=train).layers[1]
    mean = train.mean(0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(scaled(mean[None])), 0)


def test_features_are_standardised_in_float32_under_mixed_precision():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    train = (RNG.normal(size=(30, 2)) + 1e4).astype(np.float32)
    scaled = np.asarray(build_backbone("mlp", (2,), train_features=train).layers[1](train))
    expected = (train - train.mean(0, dtype=np.float64)) / train.std(0, dtype=np.float64)
    np.testing.assert_allclose(scaled, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "repeats", "shape"), [("resnet8", (1, 1, 1), (17, 12, 3)), ("resnet14", (2, 2, 2), (16, 16, 1))]
)
def test_small_resnet_is_its_naive_loop(name, repeats, shape):
    model = build_backbone(name, shape)
    randomise(model)
    images = RNG.integers(0, 256, size=(2, *shape)).astype(np.float32)
    got = model(images, training=False)
    assert got.shape == (2, 128)
    np.testing.assert_allclose(got, naive_resnet(model, images.astype(np.float64), repeats), rtol=1e-3, atol=1e-4)


def test_projection_head_is_its_equation():
    head = build_projection_head(5, 3)
    randomise(head)
    features = RNG.normal(size=(4, 5))
    first, normalisation, second = (layer for layer in head.layers if layer.weights)
    hidden = features @ np.asarray(first.kernel) + np.asarray(first.bias)
    expected = relu(batch_normalised(hidden, normalisation)) @ np.asarray(second.kernel) + np.asarray(second.bias)
    assert hidden.shape[-1] == 256
    np.testing.assert_allclose(head(features, training=False), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "shape", "message"), [
    ("mlp", (8, 8, 3), r"--backbone=mlp takes vectors \[F\]\. Received: samples of shape \(8, 8, 3\)"),
    ("resnet8", (7,), r"--backbone=resnet8 takes images \[H, W, channels\]\. Received: samples of shape \(7,\)"),
    ("resnet9", (8, 8, 3), r"--backbone must be one of mlp, resnet8, .*convnext-small\. Received: resnet9"),
    ("resnet18", (48, 31, 3), r"--backbone=resnet18 takes images of at least 32 pixels\. Received: --image_size=31"),
    ("convnext-tiny", (16, 16, 3), r"--backbone=convnext-tiny takes images of at least 32 .*Received: --image_size=16"),
    ("resnet50", (64, 64, 4), r"--backbone=resnet50 takes images of 1 or 3 channels\. Received: 4 channels"),
])  # fmt: skip
def test_a_backbone_that_does_not_fit_is_refused(name, shape, message):
    with pytest.raises(InputError, match=message):
        build_backbone(name, shape)
