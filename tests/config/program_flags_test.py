import dataclasses

import pytest

from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.config.program_flags import (
    CheckConfig,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    SearchConfig,
)
from mulsupcon_tf.utils.errors import InputError


@pytest.mark.parametrize(
    ("config_class", "setting", "message"),
    [
        (EvaluateConfig, {"split": "val"}, "--split must be one of train, validation, test. Received: --split=val"),
        (EvaluateConfig, {"neighbours": 0}, "--neighbours must be at least 1. Received: --neighbours=0"),
        (EmbedConfig, {"image_size": 8}, "--image_size must be at least 16. Received: --image_size=8"),
        (
            ExportConfig,
            {"format": "pb"},
            "--format must be one of saved_model, onnx, litert. Received: --format=pb",
        ),
        (PredictConfig, {"top_k": 0}, "--top_k must be at least 1. Received: --top_k=0"),
        (CheckConfig, {"timed_steps": -1}, "--timed_steps must be at least 0. Received: --timed_steps=-1"),
        (
            SearchConfig,
            {"sheet": "photo.jpg"},  # as in `--sheet photo.jpg`, where the photo was meant to be searched for
            "--sheet must be the HTML page to write, with an ending that says so. Received: --sheet=photo.jpg",
        ),
    ],
)
def test_a_bad_value_is_refused_in_one_line(config_class, setting, message):
    with pytest.raises(InputError) as raised:
        config_class(**setting)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("config_class", "setting", "message"),
    [
        (EvaluateConfig, {"neighbours": 10}, "--neighbours belongs to --retrieval. Received: --neighbours=10"),
        (EvaluateConfig, {"gallery": "train"}, "--gallery belongs to --retrieval. Received: --gallery=train"),
        (
            EvaluateConfig,
            {"representation": "raw"},
            "--representation belongs to --retrieval. Received: --representation=raw",
        ),
        (
            EvaluateConfig,
            {"retrieval": True, "threshold": "paper"},
            "--threshold does not go with --retrieval. Received: --threshold=paper",
        ),
        (ExportConfig, {"by": "features"}, "--by belongs to --gallery. Received: --by=features"),
        (ExportConfig, {"data_dir": "photos"}, "--data_dir belongs to --quantize. Received: --data_dir=photos"),
        (
            ExportConfig,
            {"format": "onnx", "max_image_pixels": 9},
            "--max_image_pixels belongs to --format=saved_model. Received: --max_image_pixels=9",
        ),
        (
            SearchConfig,
            {"saved_model": "model", "data_dir": "photos"},
            "--data_dir belongs to --workdir. Received: --data_dir=photos",
        ),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(config_class, setting, message):
    with pytest.raises(InputError) as raised:
        config_class(**setting)
    assert str(raised.value) == message


def test_a_check_has_the_settings_of_a_pretraining_and_their_defaults():
    settings, check = (
        {field.name: field for field in dataclasses.fields(each)} for each in (PretrainConfig, CheckConfig)
    )
    assert check.keys() - settings.keys() == {"timed_steps"}
    assert {name: each.default for name, each in settings.items()}.items() <= {
        name: each.default for name, each in check.items()
    }.items()


def test_settings_of_a_run_and_of_a_network_do_not_mix():
    with pytest.raises(
        InputError, match=r"--image_size does not go with --workdir. Received: --image_size=32 --workdir"
    ):
        EmbedConfig(workdir="runs/x", image_size=32)
    with pytest.raises(InputError, match=r"--split does not go with --backbone. Received: --split=test --backbone"):
        EmbedConfig(backbone="resnet8", split="test")
