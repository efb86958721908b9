import pathlib
import socket
import subprocess
import sys
import time

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

import mulsupcon_tf
from mulsupcon_tf.models.backbone_weights import Standardisation, read_standardisation, save_weights
from mulsupcon_tf.models.backbones import APPLICATIONS, build_backbone
from mulsupcon_tf.models.heads import build_projection_head
from mulsupcon_tf.utils.errors import InputError

RNG = np.random.default_rng(0)
SLOW = pytest.mark.slow
EVERY_FAMILY = [
    "efficientnetv2-b0",
    *(
        pytest.param(name, marks=SLOW)
        for name in (
            "resnet18",
            "efficientnet-lite0",
            "resnet34",
            "resnet50",
            "resnet101",
            "mobilenetv2",
            "efficientnetv2-s",
            "convnext-tiny",
            "convnext-small",
        )
    ),
]


def pixels(*shape):
    return RNG.integers(0, 256, size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet18", 11_689_512 - 513_000),
        ("resnet34", 21_797_672 - 513_000),  # torchvision's, without its classifier
        pytest.param("resnet50", 25_557_032 - 2_049_000, marks=SLOW),
        pytest.param("mobilenetv2", 3_504_872 - 1_281_000, marks=SLOW),
        pytest.param("convnext-tiny", 28_589_128 - 769_000, marks=SLOW),
        pytest.param("convnext-small", 50_223_688 - 769_000, marks=SLOW),
    ],
)
def test_a_network_has_as_many_parameters_as_the_published_one_without_its_classifier(name, published):
    model = build_backbone(name, (64, 64, 3))
    trainable = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert trainable == published


# Each class is looked up in a process of its own, forked from one that has imported Keras and none of them.
LOADING = """
import os, sys
import keras
import mulsupcon_tf
folder, *names = sys.argv[1:]
for name in names:
    if not os.fork():
        getattr(mulsupcon_tf, name)
        print(keras.models.load_model(f"{folder}/{name}.keras").name, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_a_process_that_knows_a_class_alone_loads_a_saved_model_of_images(tmp_path):
    names = ("MultiLabelClassifier", "ContrastivePretrainer")
    for name in names:
        backbone = build_backbone("resnet8", (32, 32, 3))
        heads = [build_projection_head(backbone.output_shape[-1], 8)] if name == "ContrastivePretrainer" else []
        getattr(mulsupcon_tf, name)(backbone, *heads, 4).save(tmp_path / f"{name}.keras")
    line = [sys.executable, "-c", LOADING, str(tmp_path), *names]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [keras.models.load_model(tmp_path / f"{name}.keras").name for name in names], (
        done.stderr[-500:]
    )


@pytest.mark.parametrize("name", EVERY_FAMILY)
def test_a_backbone_can_be_copied_saved_and_trained_under_mixed_precision(name, tmp_path):
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    model = build_backbone(name, (32, 32, 3))
    images = tf.constant(pixels(8, 32, 32, 3))
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    assert next(layer for layer in model.layers if isinstance(layer, scaling)).output.dtype == "float32"

    copy = keras.models.clone_model(model)
    assert not {id(variable) for variable in copy.variables} & {id(variable) for variable in model.variables}
    copy.set_weights(model.get_weights())
    expected = tf.cast(model(images, training=False), tf.float32)
    assert expected.shape == (8, model.output_shape[-1])
    np.testing.assert_array_equal(tf.cast(copy(images, training=False), tf.float32), expected)

    model.save(tmp_path / "backbone.keras")
    loaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert loaded.name == "backbone"
    np.testing.assert_array_equal(tf.cast(loaded(images, training=False), tf.float32), expected)

    # eight images, so that stochastic depth leaves some of them to each block
    direction = tf.constant(RNG.normal(size=expected.shape), tf.float32)
    with tf.GradientTape() as tape:
        projected = tf.reduce_sum(direction * tf.cast(model(images, training=True), tf.float32))
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(projected, model.trainable_variables), strict=True
    ):
        assert gradient is not None, variable.path
        assert np.isfinite(gradient).all(), variable.path
        assert np.any(np.asarray(gradient) != 0), variable.path


def stem_input(model, images, stem):
    """What the first layer with weights sees."""
    return keras.Model(model.inputs, model.get_layer(stem).input)([images])


@pytest.mark.parametrize(
    ("name", "stem", "application"),
    [
        ("efficientnetv2-b0", "stem_conv", keras.applications.EfficientNetV2B0),
        pytest.param("efficientnetv2-s", "stem_conv", keras.applications.EfficientNetV2S, marks=SLOW),
        ("convnext-tiny", "convnext_tiny_stem", keras.applications.ConvNeXtTiny),
        pytest.param("convnext-small", "convnext_small_stem", keras.applications.ConvNeXtSmall, marks=SLOW),
    ],
)
def test_pixels_are_scaled_as_the_application_scales_them(name, stem, application):
    reference = application(include_top=False, weights=None, input_shape=(32, 32, 3))
    images = pixels(2, 32, 32, 3)
    got = stem_input(build_backbone(name, (32, 32, 3)), images, stem)
    np.testing.assert_allclose(got, stem_input(reference, images, stem), rtol=1e-5, atol=1e-5)


def test_mobilenet_takes_pixels_from_minus_one_to_one():
    images = pixels(2, 32, 32, 3)
    _, scale = APPLICATIONS["mobilenetv2"]
    np.testing.assert_allclose(
        scale(images), keras.applications.mobilenet_v2.preprocess_input(images.copy()), atol=1e-6
    )


def test_resnet_takes_centred_blue_green_red_and_a_grey_image_as_three_equal_channels():
    images = pixels(2, 32, 32, 1)
    scaled = stem_input(build_backbone("resnet50", (32, 32, 1)), images, "conv1_pad")
    expected = keras.applications.resnet.preprocess_input(np.repeat(images, 3, axis=-1))
    np.testing.assert_allclose(scaled, expected, atol=1e-4)
    colours = pixels(2, 32, 32, 3)
    _, scale = APPLICATIONS["resnet50"]
    np.testing.assert_allclose(scale(colours), keras.applications.resnet.preprocess_input(colours.copy()), atol=1e-4)


@pytest.mark.parametrize("name", ["resnet8", pytest.param("resnet50", marks=SLOW)])
def test_a_backbone_starts_from_the_weights_in_a_file(name, tmp_path):
    other = build_backbone(name, (64, 64, 3))
    other.save_weights(tmp_path / "encoder.weights.h5")
    model = build_backbone(name, (32, 48, 3), weights=str(tmp_path / "encoder.weights.h5"))
    for one, another in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, another)


def test_a_backbone_starts_from_the_file_of_a_keras_application_in_both_formats(tmp_path):
    application = keras.applications.EfficientNetV2B0(include_top=False, weights=None)
    application.save_weights(tmp_path / "b0.weights.h5")
    with h5py.File(tmp_path / "notop.h5", "w") as file:  # the format of the published files
        legacy_h5_format.save_weights_to_hdf5_group(file, application)
    for file in ("b0.weights.h5", "notop.h5"):
        model = build_backbone("efficientnetv2-b0", (32, 32, 1), weights=str(tmp_path / file))
        for one, other in zip(model.get_weights(), application.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "other"), [("resnet8", "resnet14"), ("resnet14", "resnet8"), ("resnet8", "resnet18")])
def test_the_weights_of_another_network_are_refused_in_one_line(name, other, tmp_path):
    build_backbone(other, (32, 32, 3)).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(InputError, match=rf"must hold the weights of {name}\. Received: .*other") as raised:
        build_backbone(name, (32, 32, 3), weights=str(tmp_path / "other.weights.h5"))
    assert "\n" not in str(raised.value)


def test_weights_that_cannot_be_had_are_refused_in_one_line(tmp_path):
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"no HDF5")
    for weights, message in [
        ("gone.weights.h5", r"backbone weights must be imagenet or an existing file\. Received: gone\.weights\.h5"),
        ("ImageNet", r"backbone weights must be imagenet or end in \.weights\.h5\. Received: ImageNet"),
        (str(damaged), r"backbone weights must hold the weights of resnet8\. Received: .*damaged"),
        ("imagenet", r"backbone weights of imagenet exist for resnet50, .*Received: resnet8"),
    ]:
        with pytest.raises(InputError, match=message) as raised:
            build_backbone("resnet8", (32, 32, 3), weights=weights)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=SLOW if name in ("resnet101", "efficientnetv2-s", "convnext-small") else ())
        for name in APPLICATIONS
    ],
)
def test_the_file_that_is_named_is_the_one_that_keras_asks_for(name, monkeypatch):
    asked = {}

    def get_file(file, origin, **options):
        asked.update(options, file=file)
        raise OSError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    monkeypatch.setenv("KERAS_HOME", "/home/of/keras")
    with pytest.raises(InputError) as caught:
        build_backbone(name, (64, 64, 3), weights="imagenet")
    checksum = asked.get("file_hash")
    words = f"{'MD5' if len(checksum) == 32 else 'SHA-256'} {checksum}" if checksum else "no checksum is published"
    assert f"or the file {asked['file']} ({words}) in /home/of/keras/{asked['cache_subdir']}. Received" in str(
        caught.value
    )
    page = (pathlib.Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
    assert f"| `{name}` | `{asked['file']}` | {words} |" in page


def test_without_a_network_published_weights_are_refused_soon_and_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("keras.src.backend.config.keras_home", lambda: str(tmp_path))  # an empty cache
    monkeypatch.setattr("urllib.request._opener", None)  # made anew, it reads the proxy's address
    with socket.socket() as silent:  # accepts connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("mulsupcon_tf.models.backbones.DOWNLOAD_PATIENCE", 0.2)
        start = time.monotonic()
        with pytest.raises(InputError, match=r"backbone weights of imagenet need the network.*resnet50") as raised:
            build_backbone("resnet50", (32, 32, 3), weights="imagenet")
    assert "\n" not in str(raised.value)
    assert time.monotonic() - start < 20
    assert socket.getdefaulttimeout() is None


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


@pytest.mark.parametrize("scale", [3e-7, 1.0, 1e6])
def test_features_of_any_unit_are_standardised_alike(scale):
    train = RNG.normal(size=(200, 3)).astype(np.float32)
    train[:, 0] += 2
    scaled = build_backbone("mlp", (3,), train_features=train * np.float32(scale)).layers[1]
    expected = (train - train.mean(0, dtype=np.float64)) / train.std(0, dtype=np.float64)
    np.testing.assert_allclose(np.asarray(scaled(train * np.float32(scale))), expected, rtol=1e-3, atol=1e-4)


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


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("mlp", (8, 8, 3), r"backbone mlp takes vectors \[F\]\. Received: samples of shape \(8, 8, 3\)"),
        ("resnet8", (7,), r"backbone resnet8 takes images \[H, W, channels\]\. Received: samples of shape \(7,\)"),
        ("resnet9", (8, 8, 3), r"a backbone must be one of mlp, resnet8, .*convnext-small\. Received: resnet9"),
        (
            "resnet18",
            (48, 31, 3),
            r"backbone resnet18 takes images of at least 32 pixels\. Received: 48 x 31$",
        ),
        (
            "convnext-tiny",
            (16, 16, 3),
            r"backbone convnext-tiny takes images of at least 32 .*Received: 16 x 16$",
        ),
        ("resnet50", (64, 64, 4), r"backbone resnet50 takes images of 1 or 3 channels\. Received: 4 channels"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(name, shape, message):
    with pytest.raises(InputError, match=message):
        build_backbone(name, shape)
