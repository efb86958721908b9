"""`--unfreeze_from` through both phases: frozen weights keep their bits, later ones move, what is exported is served."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.partial_freezing import freeze_before
from mulsupcon_tf.serving.saved_model import load_saved_model
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import tiny_images, write_npz

SIDE, PLACE = 32, "stage3"
SMALL = {"backbone": "resnet8", "image_size": SIDE, "max_steps": 2, "batch_size": 8, "augmentation": "simple"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("partial")


@pytest.fixture(scope="module")
def source(folder):
    return {"dataset": "npz", "data_dir": str(write_npz(tiny_images((SIDE, SIDE, 3)), folder / "images"))}


def moved(network, start):
    """Whether each variable of a network differs from the same one of where it started, those before the place first."""
    parts = build_backbone("resnet8", (SIDE, SIDE, 3))
    freeze_before(parts, PLACE)
    names = [layer.trainable for layer in parts.layers for _ in layer.weights]
    differs = [
        not np.array_equal(here, there) for here, there in zip(network.get_weights(), start.get_weights(), strict=True)
    ]
    before = [each for each, trained in zip(differs, names, strict=True) if not trained]
    return before, [each for each, trained in zip(differs, names, strict=True) if trained]


def test_both_phases_train_from_the_place_on_and_what_they_leave_is_served(source, folder):
    keras.utils.set_random_seed(1)
    start = build_backbone("resnet8", (SIDE, SIDE, 3))
    save_weights(start, folder / "start.weights.h5")
    given = {**source, **SMALL, "unfreeze_from": PLACE}
    weights = {"backbone_weights": str(folder / "start.weights.h5")}
    pretrain(PretrainConfig(**given, **weights, method="all", queue_size=16, workdir=str(folder / "pretrained")))
    encoder = build_backbone("resnet8", (SIDE, SIDE, 3), weights=str(folder / "pretrained" / "encoder.weights.h5"))
    before, after = moved(encoder, start)
    assert before and after and not any(before) and all(after)
    tuned = folder / "tuned"
    # The plain rate for the backbone: a tenth of a warming rate may leave a weight where it is.
    finetune(FinetuneConfig(**given, pretrained=str(folder / "pretrained"), warmup_epochs=0, workdir=str(tuned)))
    model = keras.models.load_model(tuned / "model.keras", compile=False)
    before, after = moved(model.backbone, encoder)
    assert not any(before) and all(after)
    served = load_saved_model(tuned / "saved_model").signatures["serving_default"]
    images = load_dataset("npz", source["data_dir"]).splits["test"].inputs
    answers = served(image_bytes=tf.stack([tf.io.encode_png(image) for image in images]))
    with np.load(tuned / "test_outputs.npz") as then:
        np.testing.assert_allclose(answers["probabilities"], then["probabilities"], atol=1e-5)


def test_what_does_not_fit_a_partly_frozen_backbone_is_refused_in_one_line(source, folder):
    with pytest.raises(InputError, match=r"--unfreeze_from trains a part of the backbone, --freeze_backbone none"):
        PretrainConfig(unfreeze_from=PLACE, freeze_backbone=True, backbone="resnet50", backbone_weights="imagenet")
    with pytest.raises(InputError, match=r"--unfreeze_from trains a part of the backbone, --linear_probe none"):
        FinetuneConfig(unfreeze_from=PLACE, linear_probe=True, backbone="resnet50", backbone_weights="imagenet")
    settings = {**source, **SMALL, "unfreeze_from": PLACE, "workdir": str(folder / "refused")}
    with pytest.raises(InputError, match=r"it needs --backbone_weights, or --pretrained. Received: --unfreeze_from"):
        finetune(FinetuneConfig(**settings))
    assert not (folder / "refused").exists()
