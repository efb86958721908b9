import dataclasses
import functools

import pytest

from mulsupcon_tf.config.defaults import resolve_finetuning, resolve_pretraining
from mulsupcon_tf.config.fields import as_flag_lines
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.optimizers.schedules import build_schedule
from mulsupcon_tf.utils.errors import InputError


def flags_of(resolved):
    return {line.removeprefix("--").partition("=")[0] for line in as_flag_lines(resolved)}


@pytest.mark.parametrize("shape", [(30,), (48, 40, 3), (48, 48, 3), (None, None, 3)])
@pytest.mark.parametrize("dataset", ["digits", "npz"])
def test_after_resolving_every_setting_that_is_used_has_a_value(dataset, shape):
    open_settings = {
        "data_dir",
        "label_separator",
        "min_label_count",
        "workdir",
        "init_from",
        "steps_per_execution",
        "max_steps",
        "backbone_weights",
        "feature_cache",
        "unfreeze_from",
        "logical_devices",
        "label_fraction",
        "validation_fraction",
    }
    open_settings |= set() if shape in ((48, 48, 3), (None, None, 3)) else {"image_size"}
    open_settings |= set() if len(shape) == 1 else {"mask_rate"}
    pretraining = resolve_pretraining(PretrainConfig(dataset=dataset), input_shape=shape, num_train=100)
    finetuning = resolve_finetuning(FinetuneConfig(dataset=dataset), input_shape=shape)
    assert {field.name for field in dataclasses.fields(pretraining)} - flags_of(pretraining) == open_settings
    assert {field.name for field in dataclasses.fields(finetuning)} - flags_of(finetuning) == open_settings | {
        "pretrained",
        "patience",
    }


def test_defaults_depend_on_the_kind_of_data():
    vectors = resolve_pretraining(PretrainConfig(dataset="scene"), input_shape=(294,), num_train=100)
    assert (vectors.backbone, vectors.augmentation, vectors.epochs, vectors.mask_rate) == ("mlp", "mask", 400, 0.5)
    assert resolve_finetuning(FinetuneConfig(dataset="scene"), input_shape=(294,)).mask_rate == 0.4
    assert vectors.queue_size == 100  # at most the training set
    assert resolve_pretraining(PretrainConfig(), input_shape=(294,), num_train=10**6).queue_size == 256
    images = resolve_pretraining(PretrainConfig(dataset="npz"), input_shape=(48, 40, 3), num_train=9999)
    assert (images.backbone, images.augmentation, images.bce_weight) == ("resnet8", "simple", 1.0)
    assert images.image_size is None  # as stored: a square would lose pixels
    self_supervised = resolve_pretraining(PretrainConfig(method="self"), input_shape=(48, 48, 1), num_train=9999)
    assert (self_supervised.bce_weight, self_supervised.image_size) == (0.0, 48)  # no label is read
    files = resolve_pretraining(PretrainConfig(dataset="coco"), input_shape=(None, None, 3), num_train=9999)
    assert (files.backbone, files.image_size, files.monitor_every) == ("resnet50", 224, 10)
    whole = resolve_pretraining(
        PretrainConfig(dataset="coco", validation_fraction=0.0), input_shape=(None, None, 3), num_train=9999
    )
    assert whole.monitor_every == 0  # validation lies in train
    digits = resolve_pretraining(PretrainConfig(), input_shape=(48, 48, 1), num_train=6000)
    assert digits.augmentation == "crop"  # a mirrored digit is no digit


def test_the_learning_rate_depends_on_the_optimizer_and_for_two_of_them_on_the_batch():
    def rate(shape=(32, 32, 3), **settings):
        return resolve_pretraining(PretrainConfig(**settings), input_shape=shape, num_train=9999).learning_rate

    assert (rate(), rate(dataset="npz"), rate(dataset="npz", batch_size=512), rate((9,))) == (8e-3, 1e-3, 1e-3, 4e-4)
    assert (rate(optimizer="sgd", batch_size=256), rate(optimizer="sgd")) == (0.03, 0.015)
    assert (rate(optimizer="lars", batch_size=4096), rate(optimizer="lars", learning_rate=2.0)) == (4.8, 2.0)
    finetuning = resolve_finetuning(FinetuneConfig(optimizer="sgd", batch_size=512), input_shape=(9,))
    assert finetuning.learning_rate == 0.06
    assert resolve_finetuning(FinetuneConfig(), input_shape=(48, 48, 1)).learning_rate == 8e-3


@pytest.mark.parametrize(
    ("dataset", "schedule", "final"),
    [("yeast", "cosine", 1.0), ("yeast", "restarts", 0.01), ("scene", "cosine", 0.01), ("arff", "cosine", 0.01)],
)
def test_the_learning_rate_of_yeast_alone_does_not_fall_unless_it_restarts(dataset, schedule, final):
    config = PretrainConfig(dataset=dataset, schedule=schedule)
    assert resolve_pretraining(config, input_shape=(103,), num_train=1200).final_learning_rate_scale == final


def test_what_the_user_gave_stays():
    given = PretrainConfig(
        epochs=7, queue_size=5000, bce_weight=0.0, augmentation="crop", image_size=32, learning_rate=0.5
    )
    resolved = resolve_pretraining(given, input_shape=(48, 48, 3), num_train=10)
    for name in ("epochs", "queue_size", "bce_weight", "augmentation", "image_size", "learning_rate"):
        assert getattr(resolved, name) == getattr(given, name)


def test_the_backbone_learns_slower_than_the_head_only_on_images_when_it_is_pretrained_and_not_on_digits():
    def scale(shape=(4,), **settings):
        return resolve_finetuning(FinetuneConfig(**settings), input_shape=shape).backbone_learning_rate_scale

    assert scale(dataset="scene") == 1.0
    assert scale(dataset="scene", pretrained="a") == 1.0
    assert scale((64, 64, 3), dataset="npz", pretrained="a") == 0.1
    assert scale((64, 64, 3), dataset="npz", backbone_weights="imagenet", backbone="resnet50") == 0.1
    assert scale((48, 48, 1), dataset="digits", pretrained="a") == 1.0


PHASES = pytest.mark.parametrize(
    ("settings", "resolve"),
    [
        (PretrainConfig, functools.partial(resolve_pretraining, num_train=100)),
        (FinetuneConfig, resolve_finetuning),
    ],
)


@PHASES
@pytest.mark.parametrize(
    ("data", "epochs", "warm_up"),
    [
        (("coco", (None, None, 3)), 100, 5.0),
        (("coco", (None, None, 3)), 25, 5.0),
        (("coco", (None, None, 3)), 15, 3.0),
        (("coco", (None, None, 3)), 1, 0.2),
        (("digits", (48, 48, 1)), 10, 1.0),
        (("digits", (48, 48, 1)), 3, 0.6),
        (("scene", (294,)), 3, 0.0),
    ],
)
def test_the_warm_up_is_at_most_a_fifth_of_the_epochs(settings, resolve, data, epochs, warm_up):
    dataset, shape = data
    resolved = resolve(settings(dataset=dataset, epochs=epochs), input_shape=shape)
    assert resolved.warmup_epochs == pytest.approx(warm_up)
    schedule = build_schedule(resolved, steps_per_epoch=10)
    assert max(float(schedule(step)) for step in range(10 * epochs)) == pytest.approx(resolved.learning_rate)


@PHASES
@pytest.mark.parametrize("warm_up", [3.0, 4.5])
def test_a_warm_up_of_all_epochs_is_refused(settings, resolve, warm_up):
    config = settings(dataset="npz", epochs=3, warmup_epochs=warm_up)
    with pytest.raises(InputError) as raised:
        resolve(config, input_shape=(9,))
    assert str(raised.value) == (
        f"--warmup_epochs must be below --epochs. Received: --warmup_epochs={warm_up:g} with --epochs=3"
    )
    nearly = resolve(dataclasses.replace(config, warmup_epochs=2.9), input_shape=(9,))
    schedule = build_schedule(nearly, steps_per_epoch=1)  # of three steps the warm-up would be all
    assert float(schedule(2)) == pytest.approx(nearly.learning_rate)


def test_binary_cross_entropy_may_stand_alone_for_all_epochs():
    config = PretrainConfig(dataset="npz", epochs=3, bce_weight=1.0, bce_warmup_epochs=3.0)
    assert resolve_pretraining(config, input_shape=(9,), num_train=100).bce_warmup_epochs == 3.0
