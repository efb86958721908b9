"""Which network the user's own photos start from, and that a run goes on with the one that it began with."""

import logging
import sys

import pytest

from mulsupcon_tf.config.backbones import WEIGHTS_PACKAGE
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.training.resolving import (
    DataSize,
    resolved_finetuning,
    resolved_pretraining,
    say_start,
    settings_begun_with,
)
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError

AUGMENTATION = "--augmentation must be mask for vectors, crop, simple or simclr for images."
PHOTOS = DataSize((None, None, 3), 150, 40)
START = ("backbone", "backbone_weights", "freeze_backbone", "image_size", "augmentation")
FROZEN = ("efficientnet-lite0", "imagenet", True, 224, "mask")
RANDOM = ("resnet18", None, False, 128, "simple")


def not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, WEIGHTS_PACKAGE, None)


def start_of(resolve, config, begun=None):
    resolved = resolve(config, PHOTOS, begun or {})
    return tuple(getattr(resolved, name) for name in START)


phases = pytest.mark.parametrize(
    ("resolve", "config_class"), [(resolved_pretraining, PretrainConfig), (resolved_finetuning, FinetuneConfig)]
)


@phases
def test_own_photos_start_frozen_from_imagenet_where_its_weights_are_installed(resolve, config_class, monkeypatch):
    assert start_of(resolve, config_class(dataset="csv")) == FROZEN
    assert start_of(resolve, config_class(dataset="csv", image_size=96)) == (*FROZEN[:3], 96, "mask")
    assert start_of(resolve, config_class(dataset="coco"))[:3] == ("resnet50", None, False)
    not_installed(monkeypatch)
    assert start_of(resolve, config_class(dataset="csv")) == RANDOM
    assert start_of(resolve, config_class(dataset="csv", image_size=96)) == (*RANDOM[:3], 96, "simple")


@phases
@pytest.mark.parametrize(
    ("shape", "setting", "message"),
    [
        *(
            ((9,), {name: value}, f"--{name} takes images. Received: vectors of --dataset=npz")
            for name, value in (
                ("image_size", 32),
                ("cache", True),
                ("skip_bad_images", True),
                ("max_image_pixels", 5),
            )
        ),
        ((9,), {"augmentation": "simclr"}, f"{AUGMENTATION} Received: --augmentation=simclr for vectors"),
        (
            (20, 16, 3),
            {"augmentation": "mask"},
            f"{AUGMENTATION} Received: --augmentation=mask for images",
        ),
        (
            (None, None, 3),
            {"mask_rate": 0.3},
            "--mask_rate belongs to --augmentation=mask, of vectors and of the features of --freeze_backbone. "
            "Received: --mask_rate=0.3 --augmentation=simple",
        ),
        (
            (9,),
            {"feature_cache": "kept"},
            "--feature_cache belongs to --freeze_backbone. Received: --feature_cache=kept",
        ),
        (
            (9,),
            {"restart_epochs": 5.0},
            "--restart_epochs belongs to --schedule=restarts. Received: --restart_epochs=5",
        ),
        (
            (9,),
            {"restart_factor": 1.0},
            "--restart_factor belongs to --schedule=restarts. Received: --restart_factor=1",
        ),
    ],
)
def test_a_setting_that_the_training_does_not_read_is_refused(resolve, config_class, shape, setting, message):
    with pytest.raises(InputError) as raised:
        resolve(config_class(dataset="npz", **setting), DataSize(shape, 150, 40), {})
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("setting", "methods"),
    [
        ({"alpha": 0.5}, "cld or rld"),
        ({"beta": 0.5}, "cld or rld"),
        ({"own_distribution": "live"}, "cld or rld"),
        ({"cld_kernel": "printed"}, "cld"),
        ({"rbf_sigma": 0.3}, "rld"),
    ],
)
def test_a_setting_of_other_methods_is_refused_and_its_default_stands_in_flag_files_of_all(setting, methods):
    ((name, value),) = setting.items()
    size = DataSize((9,), 150, 40)
    with pytest.raises(InputError) as raised:
        resolved_pretraining(PretrainConfig(dataset="npz", method="any", **setting), size, {})
    rule = f"--{name} belongs to --method={methods}. Received: --{name}={value} --method=any"
    assert str(raised.value) == rule
    resolved_pretraining(PretrainConfig(dataset="npz", method=methods.split()[-1], **setting), size, {})
    default = {name: getattr(PretrainConfig, name)}
    resolved_pretraining(PretrainConfig(dataset="npz", method="any", **default), size, {})


@phases
def test_settings_that_a_training_reads_are_kept(resolve, config_class):
    restarts = {"schedule": "restarts", "restart_epochs": 5.0, "restart_factor": 1.0}
    resolve(config_class(dataset="npz", mask_rate=0.3, **restarts), DataSize((9,), 150, 40), {})
    frozen = {"backbone": "resnet50", "backbone_weights": "imagenet", "freeze_backbone": True, "feature_cache": "kept"}
    resolve(config_class(dataset="coco", mask_rate=0.3, image_size=96, **frozen), PHOTOS, {})


@phases
def test_what_the_user_names_wins(resolve, config_class):
    for named in ({"backbone": "resnet34"}, {"backbone": "resnet50", "backbone_weights": "imagenet"}):
        start = start_of(resolve, config_class(dataset="csv", **named))
        assert start == (named["backbone"], named.get("backbone_weights"), False, 224, "simple")
    # All of the network is trained where that is said, and where it is to see views of images.
    whole = (*FROZEN[:2], False, 224, "simple")
    assert start_of(resolve, config_class(dataset="csv", freeze_backbone=False)) == whole
    assert start_of(resolve, config_class(dataset="csv", augmentation="simple")) == whole


@phases
def test_a_run_goes_on_as_it_began_whatever_is_installed_since(resolve, config_class, monkeypatch, tmp_path):
    def begin(name, **settings):
        config = resolve(config_class(dataset="csv", workdir=str(tmp_path / name), **settings), PHOTOS, {})
        with RunDirectory(tmp_path / name) as run:
            run.claim(config)

    begin("frozen")
    with monkeypatch.context() as without:
        not_installed(without)
        begin("random")
        begin("named", backbone="resnet34")
        given = config_class(dataset="csv", workdir=str(tmp_path / "frozen"))
        again = resolve(given, PHOTOS, settings_begun_with(given.workdir))
        assert tuple(getattr(again, name) for name in START) == FROZEN
        RunDirectory(tmp_path / "frozen").check(again)
    given = config_class(dataset="csv", workdir=str(tmp_path / "random"))
    again = resolve(given, PHOTOS, settings_begun_with(given.workdir))
    assert tuple(getattr(again, name) for name in START) == RANDOM
    RunDirectory(tmp_path / "random").check(again)
    # A network that is named now is not that of the run.
    given = config_class(dataset="csv", workdir=str(tmp_path / "random"), backbone="resnet34")
    with pytest.raises(InputError, match=r"--backbone: resnet18 there, resnet34 here"):
        RunDirectory(tmp_path / "random").check(resolve(given, PHOTOS, settings_begun_with(given.workdir)))


def test_a_run_that_is_older_than_freeze_backbone_was_not_frozen(tmp_path):
    config = resolved_pretraining(PretrainConfig(dataset="csv", backbone="resnet8", workdir=str(tmp_path)), PHOTOS, {})
    with RunDirectory(tmp_path) as run:
        run.claim(config)
        lines = run.flags_file.read_text(encoding="utf-8")
        assert "--freeze_backbone=false\n" in lines
        run.flags_file.write_text(lines.replace("--freeze_backbone=false\n", ""), encoding="utf-8")
        run.check(config)


@pytest.mark.parametrize(
    ("settings", "installed", "parts"),
    [
        ({}, True, ["start: efficientnet-lite0 with weights of imagenet, frozen", "--backbone takes another"]),
        ({"freeze_backbone": False}, True, ["start: efficientnet-lite0", "all of it is trained"]),
        ({}, False, ["start: resnet18 from random weights", "pip install '.[pretrained]'"]),
        ({"backbone": "resnet18"}, False, None),
        ({"dataset": "coco"}, True, None),
    ],
)
def test_one_line_says_what_photos_start_from_where_nobody_named_it(settings, installed, parts, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="mulsupcon_tf")
    if not installed:
        not_installed(monkeypatch)
    given = FinetuneConfig(**{"dataset": "csv"} | settings)
    say_start(given, resolved_finetuning(given, PHOTOS, {}))
    if parts is None:
        assert caplog.messages == []
        return
    (line,) = caplog.messages
    assert all(part in line for part in parts)


def test_a_frozen_pretraining_is_not_tuned_whole(tmp_path):
    config = resolved_pretraining(PretrainConfig(dataset="csv", workdir=str(tmp_path)), PHOTOS, {})
    with RunDirectory(tmp_path) as run:
        run.claim(config)
        run.write_summary({"phase": "pretrain"})
    tuned = resolved_finetuning(FinetuneConfig(dataset="csv", pretrained=str(tmp_path)), PHOTOS, {})
    assert tuple(getattr(tuned, name) for name in START) == FROZEN
    given = FinetuneConfig(dataset="csv", pretrained=str(tmp_path), freeze_backbone=False)
    with pytest.raises(InputError, match=r"--freeze_backbone=false with --pretrained needs a pretraining without"):
        resolved_finetuning(given, PHOTOS, {})
