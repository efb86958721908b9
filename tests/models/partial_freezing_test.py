import keras
import numpy as np
import pytest

from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.partial_freezing import freeze_before
from mulsupcon_tf.utils.errors import InputError


@pytest.fixture(scope="module")
def lite():
    return build_backbone("efficientnet-lite0", (64, 64, 3))


def twin_of(network):
    return keras.models.clone_model(network)


@pytest.mark.parametrize(
    ("place", "first"),
    [("stage2", "block1_depthwise"), ("stage5", "block11_depthwise"), ("block4_project", "block4_project")],
)
def test_what_lies_before_is_frozen_and_the_rest_trained(lite, place, first):
    network = twin_of(lite)
    freeze_before(network, place)
    names = [layer.name for layer in network.layers if layer.weights]
    start = names.index(first)
    assert [name for name in names if not network.get_layer(name).trainable] == names[:start]
    trained = {id(variable) for variable in network.trainable_variables}
    expected = {id(each) for name in names[start:] for each in network.get_layer(name)._trainable_variables}
    assert trained == expected and trained


@pytest.mark.parametrize(
    ("name", "firsts"),
    [
        # The gates of its channels are small images, but no stage.
        pytest.param(
            "efficientnetv2-b0",
            {2: "block2a_expand_conv", 4: "block4a_dwconv2", 5: "block6a_dwconv2"},
            marks=pytest.mark.slow,
        ),
        ("convnext-tiny", {4: "convnext_tiny_downsampling_block_1"}),
    ],
)
def test_a_stage_begins_where_images_are_halved_again(name, firsts):
    network = build_backbone(name, (64, 64, 3))
    for number, first in firsts.items():
        freeze_before(network, f"stage{number}")
        frozen = [layer.name for layer in network.layers if not layer.trainable]
        assert len(frozen) == [layer.name for layer in network.layers].index(first)


def test_frozen_normalisation_takes_and_keeps_its_moving_statistics_in_training(lite):
    network = twin_of(lite)
    freeze_before(network, "stage3")
    images = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("float32")
    up_to = keras.Model(network.input, network.get_layer("block3_depthwise").input)
    before = [np.array(weight) for weight in up_to.weights]
    np.testing.assert_array_equal(up_to(images, training=True), up_to(images, training=False))
    network(images, training=True)
    for weight, array in zip(up_to.weights, before, strict=True):
        np.testing.assert_array_equal(weight, array)
    assert np.abs(network.get_layer("top_norm").moving_mean).max() > 0  # that of the rest moves


def test_places_that_are_none_are_refused_with_those_that_are(lite):
    for place, text in (
        ("stage9", r"must be stage1, stage2, stage3, stage4, stage5 or the name of a layer.*\(nearest: stage5\)"),
        ("blok4_project", r"\(nearest: block4_project\)"),
        (
            "stage1",
            r"must leave weights before it, and from it on. Received: --unfreeze_from=stage1, with none before it",
        ),
        (lite.layers[-1].name, r"with none from it on"),
    ):
        with pytest.raises(InputError, match=text):
            freeze_before(lite, place)
    assert all(layer.trainable for layer in lite.layers)
