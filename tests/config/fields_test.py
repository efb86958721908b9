import dataclasses
import os

import pytest

from mulsupcon_tf.config.fields import as_flag_lines, from_flag_values, require, settings_of_run
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import ExportConfig
from mulsupcon_tf.utils.errors import InputError


@pytest.mark.parametrize(
    "setting",
    [
        {"temperature": float("inf")},
        {"learning_rate": float("inf")},
        {"alpha": float("inf")},
        {"bce_weight": float("inf")},
    ],
)
def test_numbers_are_finite(setting):
    with pytest.raises(InputError, match=f"--{next(iter(setting))} must be .*Received: .*=inf"):
        PretrainConfig(**setting)


@pytest.mark.parametrize("name", ["data_dir", "workdir"])
def test_a_folder_whose_name_is_no_utf8_is_refused_in_one_line(name):
    assert PretrainConfig(dataset="csv", **{name: "photos/café 木"})
    with pytest.raises(InputError) as caught:
        PretrainConfig(dataset="csv", **{name: os.fsdecode("photos/café".encode("latin-1"))})
    assert f"--{name} must be text" in str(caught.value)
    assert str(caught.value).endswith(f"Received: --{name}='photos/caf\\udce9'")


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PretrainConfig().epochs = 3


def test_required_settings_are_named():
    with pytest.raises(InputError, match=r"--output is required\. Received: none"):
        require(ExportConfig(workdir="a"), "workdir", "output")
    require(ExportConfig(workdir="a", output="b"), "workdir", "output")


def test_flag_lines_say_what_is_set():
    lines = as_flag_lines(FinetuneConfig(workdir="runs/a b", pretrained="p", linear_probe=True, learning_rate=4e-4))
    assert {"--workdir=runs/a b", "--linear_probe=true", "--learning_rate=0.0004", "--weight_decay=0.0001"} <= set(
        lines
    )
    assert not [line for line in lines if line.startswith("--max_steps")]


@pytest.mark.parametrize(
    "config",
    [
        PretrainConfig(workdir="runs/a=b", method="rld", bce_weight=0.5, image_size=32, cache=True),
        FinetuneConfig(workdir="runs/a b", pretrained="p", linear_probe=True, learning_rate=4e-4, max_steps=3),
    ],
)
def test_flag_lines_are_read_back_into_the_same_config(config):
    values = dict(line.removeprefix("--").split("=", 1) for line in as_flag_lines(config))
    assert from_flag_values(type(config), values) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speed": "3"}, "settings of this version. Received: --speed=3"),
        ({"epochs": "many"}, "--epochs must be a value of type int. Received: --epochs=many"),
        ({"cache": "maybe"}, "--cache must be a value of type bool. Received: --cache=maybe"),
        ({"epochs": "0"}, "--epochs must be at least 1"),
    ],
)
def test_values_that_are_none_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        from_flag_values(PretrainConfig, values)


def test_what_a_run_did_not_write_yet_has_its_default_and_paths_their_normal_spelling():
    settings = settings_of_run(ExportConfig(), {"workdir": "runs//a/./b/", "format": "onnx"})
    # What is None by default is left out.
    assert settings == {"workdir": "runs/a/b", "format": "onnx", "allow_changed_data": "false"}
    assert settings_of_run(FinetuneConfig(), {"seed": "7"})["seed"] == "7"
    assert settings_of_run(FinetuneConfig(), {})["linear_probe"] == "false"
