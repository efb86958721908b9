import dataclasses
import functools
import pathlib
import re

import pytest

from mulsupcon_tf.config.fields import as_flag_lines, from_flag_values
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.paths import expanded, normal_path
from mulsupcon_tf.config.program_flags import CheckConfig, ExportConfig
from mulsupcon_tf.demo import DemoConfig
from mulsupcon_tf.experiment import ExperimentConfig
from mulsupcon_tf.report import ReportConfig
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import assert_one_line, run_binary
from tools.docs.api_reference import CONFIGS

EVERY_CONFIG = (*CONFIGS.values(), DemoConfig, ExperimentConfig, ReportConfig)
ADDRESSES = ("gs://bucket/run", "s3://bucket", "hdfs://node:8020/x", "dbfs:/mnt/x", "file:///tmp/x", "https://host/x")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def path_settings(config_class):
    return [field.name for field in dataclasses.fields(config_class) if field.metadata["path"]]


@pytest.mark.parametrize("config_class", EVERY_CONFIG)
def test_every_setting_that_says_file_or_folder_is_a_path(config_class):
    said = [
        field.name
        for field in dataclasses.fields(config_class)
        if field.type in (str, str | None)
        and re.search(r"(?i)\b(folder|run directory|file)\b", field.metadata["help"])
        and field.name not in ("dataset", "add", "backbone")  # names; several paths
    ]
    assert said and set(said) <= set(path_settings(config_class))


# What a path belongs to.
NEEDED = {(ExportConfig, "data_dir"): {"format": "litert", "quantize": "int8"}}
FILES = {"sheet": "x.html"}  # settings that ask for an ending
NEEDED |= {(each, "data_dir"): {"dataset": "csv"} for each in (PretrainConfig, FinetuneConfig, CheckConfig)}


@pytest.mark.parametrize("config_class", EVERY_CONFIG)
def test_in_every_path_the_home_folder_is_found_and_an_address_refused(config_class, home):
    for name in path_settings(config_class):
        build = functools.partial(config_class, **NEEDED.get((config_class, name), {}))
        file = FILES.get(name, "x.h5")
        assert getattr(build(**{name: f"~/{file}"}), name) == str(home / file)
        if name not in FILES:
            assert getattr(build(**{name: "~"}), name) == str(home)
        assert getattr(build(**{name: ""}), name) is None
        for address in ADDRESSES:
            with pytest.raises(InputError) as caught:
                build(**{name: address})
            assert str(caught.value) == (
                f"--{name} must be a path of this machine's file system: copy or mount what lies elsewhere. "
                f"Received: {address}"
            )
        with pytest.raises(InputError, match=f"--{name} must not end in a space.* Received: 'x '"):
            build(**{name: "x "})
        with pytest.raises(InputError, match=f"--{name} must be one line of text. Received: --{name}='x.ny'"):
            build(**{name: "x\ny"})


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("runs/a", "runs/a"),
        ("./runs//a/", "runs/a"),
        (".", "."),
        ("../a", "../a"),
        ("/a/../b", "/a/../b"),
        ("a~b", "a~b"),
        ("./~x", "./~x"),
        ("./gs:/x", "./gs:/x"),
        ("C:/runs", "C:/runs"),
        (" a", " a"),
        ("a\u2028b", "a\u2028b"),
        ("a:b/c", "a:b/c"),
    ],
)
def test_a_path_has_one_spelling_which_means_the_same_when_it_is_read_again(given, normal):
    assert normal_path(given, "x") == normal
    config = PretrainConfig(dataset="csv", workdir=given, data_dir=given)
    lines = as_flag_lines(config)
    again = from_flag_values(PretrainConfig, dict(line[2:].split("=", 1) for line in lines))
    assert again == config == dataclasses.replace(config)
    assert pathlib.Path(config.workdir) == pathlib.Path(given)


def test_a_home_folder_that_is_none_is_refused_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"Each file must begin with .*Received: ~nobody-here\.jpg"):
        expanded("~nobody-here.jpg", "Each file")
    (tmp_path / "~nobody-here.jpg").touch()  # as a shell gives it for *.jpg
    assert expanded("~nobody-here.jpg", "Each file") == "~nobody-here.jpg"


def test_paths_in_flag_files_and_files_without_a_flag_are_treated_alike(tmp_path):
    (tmp_path / "some.flags").write_text("--workdir=s3://bucket/run\n")
    assert_one_line(run_binary("pretrain", flagfile=tmp_path / "some.flags"), "Received: s3://bucket/run")
    assert_one_line(run_binary("predict", "gs://bucket/a.jpg", saved_model=tmp_path), "Received: gs://bucket/a.jpg")
    assert_one_line(run_binary("report", "gs://bucket/run"), "Received: gs://bucket/run")
