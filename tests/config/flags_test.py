import dataclasses
import importlib

import pytest

from mulsupcon_tf.config.backbones import BACKBONES
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig, ExportConfig, PredictConfig
from mulsupcon_tf.utils import choices
from mulsupcon_tf.utils.errors import InputError

ALL = (PretrainConfig, FinetuneConfig, EvaluateConfig, ExportConfig, PredictConfig)


@pytest.mark.parametrize("config_class", ALL)
def test_every_setting_has_a_help_text_and_a_default_within_its_limits(config_class):
    for field in dataclasses.fields(config_class):
        assert len(field.metadata["help"]) > 10, field.name
    config_class()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "focal"}, "--loss must be one of bce, asl, two_way, zlpr. Received: --loss=focal"),
        (
            {"loss": "zlpr", "class_weights": "balanced"},
            "--class_weights=balanced belongs to --loss=bce or asl. Received: --loss=zlpr",
        ),
        (
            {"threshold": "per_label", "validation_fraction": 0.0},
            "--threshold=per_label needs a validation split. Received: --validation_fraction=0",
        ),
        (
            {"loss": "two_way", "strategy": "mirrored"},
            "--loss=two_way compares the samples of a whole batch and needs --strategy=none. Received: --strategy=mirrored",
        ),
    ],
)
def test_a_loss_or_a_threshold_is_refused_where_it_cannot_be(settings, message):
    with pytest.raises(InputError) as error:
        FinetuneConfig(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "--epochs must be at least 1. Received: --epochs=0"),
        ({"batch_size": 1}, "--batch_size must be at least 2. Received: --batch_size=1"),
        ({"queue_size": 0}, "--queue_size must be at least 1. Received: --queue_size=0"),
        (
            {"xla": True, "strategy": "multiworker"},
            "--xla compiles the step of one device. Received: --xla with --strategy=multiworker",
        ),
        ({"temperature": 0.0}, "--temperature must be greater than 0. Received: --temperature=0.0"),
        ({"cld_kernel": "flwo"}, "--cld_kernel must be one of softmax, negative, printed. Received: --cld_kernel=flwo"),
        ({"mask_rate": 1.5}, "--mask_rate must be at most 1. Received: --mask_rate=1.5"),
        ({"learning_rate": 0.0}, "--learning_rate must be greater than 0. Received: --learning_rate=0.0"),
        ({"learning_rate": float("nan")}, "--learning_rate must be a finite number. Received: --learning_rate=nan"),
        ({"momentum": 1.1}, "--momentum must be at most 1. Received: --momentum=1.1"),
        ({"seed": -1}, "--seed must be at least 0. Received: --seed=-1"),
        ({"seed": 2**32}, "--seed must be at most 4294967295. Received: --seed=4294967296"),
        ({"workdir": "a\nb"}, "--workdir must be one line of text. Received: --workdir='a\\nb'"),
        (
            {"checkpoint_every": "1e\r"},
            "--checkpoint_every must be one line of text. Received: --checkpoint_every='1e\\r'",
        ),
        ({"image_size": 8}, "--image_size must be at least 16. Received: --image_size=8"),
        ({"max_steps": 0}, "--max_steps must be at least 1. Received: --max_steps=0"),
        (
            {"method": "cdl"},
            "--method must be one of cld, rld, mulsupcon, any, all, jaccard, self, truth. Received: --method=cdl",
        ),
        (
            {"mixed_precision": "fp16"},
            "--mixed_precision must be one of none, bfloat16, float16. Received: --mixed_precision=fp16",
        ),
        (
            {"bce_weight": 1.0, "method": "self"},
            "--method=self reads no labels, binary cross-entropy does. Received: --bce_weight=1",
        ),
        (
            {"validation_fraction": 0.3},
            "--validation_fraction must be 0, or left out where validation is to be kept apart. Received: --validation_fraction=0.3",
        ),
        (
            {"schedule": "restarts", "warmup_epochs": 2.0},
            "--warmup_epochs belongs to --schedule=cosine. Received: --warmup_epochs=2 --schedule=restarts",
        ),
        (
            {"monitor_every": 5, "validation_fraction": 0.0},
            "--monitor_every above 0 needs a validation split: each of its samples would be its own neighbour in train. "
            "Received: --monitor_every=5 --validation_fraction=0",
        ),
        (
            {"bce_warmup_epochs": 2.0, "bce_weight": 0.0},
            "--bce_warmup_epochs needs a positive --bce_weight. Received: --bce_weight=0",
        ),
        (
            {"checkpoint_every": "ten"},
            "--checkpoint_every must be a time (30s, 5m) or a number of steps (500) or epochs (2e). Received: ten",
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_line(setting, message):
    with pytest.raises(InputError) as raised:
        PretrainConfig(**setting)
    assert str(raised.value) == message


def test_a_linear_probe_needs_a_pretraining():
    with pytest.raises(InputError, match=r"--linear_probe needs --pretrained=DIR.*Received: none"):
        FinetuneConfig(linear_probe=True)
    assert FinetuneConfig(linear_probe=True, pretrained="runs/a").linear_probe


def test_a_backbone_starts_from_one_set_of_weights():
    with pytest.raises(InputError, match=r"--pretrained brings .*Received: --pretrained=a --backbone_weights=imagenet"):
        FinetuneConfig(pretrained="a", backbone_weights="imagenet")
    assert FinetuneConfig(linear_probe=True, backbone_weights="imagenet").linear_probe


def test_the_choices_are_those_of_the_modules_that_they_choose_in():
    """Their one home is `choices`, which must not import TensorFlow."""
    from mulsupcon_tf.datasets.base import SPLIT_NAMES
    from mulsupcon_tf.losses.registry import build_method
    from mulsupcon_tf.models import backbones
    from mulsupcon_tf.optimizers.registry import _OPTIMIZERS

    assert {"mlp", "efficientnet-lite0", *backbones.RESIDUAL_NETWORKS, *backbones.APPLICATIONS} == set(BACKBONES)
    builders = (place.split(":") for place in BACKBONES.values())
    assert all(callable(getattr(importlib.import_module(f"mulsupcon_tf.models.{m}"), name)) for m, name in builders)
    assert tuple(_OPTIMIZERS) == choices.OPTIMIZERS
    assert choices.SPLITS == SPLIT_NAMES
    methods = {name: build_method(name) for name in choices.METHODS}
    assert {name for name in methods if methods[name].learns_distributions} == set(choices.DISTRIBUTION_METHODS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            {"validation_fraction": 0.0, "patience": 3},
            "--patience needs a validation split. Received: --validation_fraction=0",
        ),
        (
            {"validation_fraction": 0.0, "select_by": "mAP"},
            "--select_by needs a validation split. Received: --validation_fraction=0",
        ),
        (
            {"validation_fraction": 0.0, "mix_neighbours": True},
            "--mix_neighbours needs a validation split. Received: --validation_fraction=0",
        ),
        ({"select_by": "last", "patience": 3}, "--patience needs --select_by=mAP or loss. Received: --patience=3"),
    ],
)
def test_selection_needs_validation(setting, message):
    with pytest.raises(InputError) as raised:
        FinetuneConfig(**setting)
    assert str(raised.value) == message
