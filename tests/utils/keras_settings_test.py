import importlib
import inspect
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import mulsupcon_tf
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.keras_settings import importing, require_tensorflow, settle
from tests.helpers.binaries import REPOSITORY


def run(line, **environment):
    return subprocess.run(
        line, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, timeout=200, check=False
    )


def write_settings(folder, **settings):
    folder.mkdir()
    (folder / "keras.json").write_text(json.dumps(settings))
    return str(folder)


BINARY = """
import sys
from mulsupcon_tf.config.command_line import import_tensorflow_quietly
import_tensorflow_quietly()
import keras
import numpy as np
from mulsupcon_tf.models.backbones import build_backbone
keras.utils.set_random_seed(0)
backbone = build_backbone("resnet8", (16, 16, 3))
np.savez(sys.argv[1], backbone(np.load(sys.argv[2])), *backbone.get_weights())
"""


def test_in_a_binary_networks_are_the_same_whatever_keras_is_set_to(tmp_path):
    """The other backends are not installed; the name of one ends Keras's import."""
    folder = write_settings(
        tmp_path / "keras", image_data_format="channels_first", floatx="float16", epsilon=0.5, backend="torch"
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    done = run(
        [sys.executable, "-c", BINARY, str(tmp_path / "a.npz"), str(tmp_path / "images.npy")],
        KERAS_HOME=folder,
        KERAS_BACKEND="jax",
    )
    assert done.returncode == 0, done.stderr
    keras.utils.set_random_seed(0)
    backbone = build_backbone("resnet8", (16, 16, 3))
    expected = [backbone(images), *backbone.get_weights()]
    with np.load(tmp_path / "a.npz") as found:
        assert len(found.files) == len(expected)
        for name, values in zip(found.files, expected, strict=True):
            assert found[name].dtype == np.float32
            np.testing.assert_allclose(found[name], values, atol=1e-5)
    assert (3, 3, 3, 32) in {values.shape for values in expected}


@pytest.mark.parametrize("binary", ["pretrain", "finetune", "evaluate", "embed", "export", "predict"])
def test_every_binary_settles_keras_before_it_imports_what_needs_it(binary):
    source = inspect.getsource(importlib.import_module(f"mulsupcon_tf.{binary}").main)
    before, settled, after = source.partition("import_tensorflow_quietly()")
    assert settled
    assert "import" not in before
    assert "import" in after


CLIENT = """
import sys
import mulsupcon_tf
assert "keras" not in sys.modules
mulsupcon_tf.load_dataset  # needs no Keras
try:
    mulsupcon_tf.build_backbone
except mulsupcon_tf.InputError as error:
    assert "keras" not in sys.modules
    print(error)
"""


@pytest.mark.parametrize(
    ("environment", "settings", "backend"),
    [
        ({"KERAS_BACKEND": "jax"}, {}, "jax"),
        ({}, {"backend": "torch"}, "torch"),
        *(
            pytest.param(environment, settings, None, marks=pytest.mark.slow)
            for environment, settings in (
                ({"KERAS_BACKEND": "tensorflow"}, {"backend": "torch"}),
                ({"KERAS_BACKEND": ""}, {}),
            )
        ),
    ],
)
def test_a_program_whose_keras_runs_on_something_else_gets_one_line_before_it_is_imported(
    tmp_path, environment, settings, backend
):
    folder = write_settings(tmp_path / "keras", **settings)
    environment = {"KERAS_BACKEND": "", "KERAS_HOME": folder} | environment
    done = run([sys.executable, "-c", CLIENT], **environment)
    assert done.returncode == 0, done.stderr
    expected = f"Received: KERAS_BACKEND={backend} (of the environment or keras.json)" if backend else ""
    assert done.stdout.strip().endswith(expected)
    assert bool(done.stdout) == bool(backend)


@pytest.mark.parametrize(
    ("settings", "variables", "received"),
    [
        ('{"floatx": "bfloat16"}', {}, "AssertionError"),
        pytest.param(
            '["channels_last"]', {}, "AttributeError 'list' object has no attribute 'get'", marks=pytest.mark.slow
        ),
        pytest.param("[" * 100_000, {}, "RecursionError", marks=pytest.mark.slow),
        pytest.param("{}", {"KERAS_MAX_EPOCHS": "many"}, "ValueError invalid literal for int", marks=pytest.mark.slow),
    ],
)
def test_settings_with_which_keras_cannot_be_imported_are_one_line(tmp_path, settings, variables, received):
    (tmp_path / "keras.json").write_text(settings)
    line = [sys.executable, "-m", "mulsupcon_tf.embed", "--workdir=run", "--output=x.npz"]
    done = run(line, KERAS_HOME=str(tmp_path), **variables)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Keras must be able to use its settings")
    assert f"Received: {received}" in line and line.endswith(f"of {tmp_path / 'keras.json'} or a variable KERAS_...")


@pytest.mark.parametrize(
    ("error", "received"),
    [
        (AssertionError(), "AssertionError"),
        (AttributeError("'list' object has no attribute 'get'"), "AttributeError 'list' object has no attribute 'get'"),
        (RecursionError("maximum recursion\ndepth exceeded"), "RecursionError maximum recursion depth exceeded"),
        (ValueError("invalid literal for int() with base 10: 'many'"), "ValueError invalid literal for int() with"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else None,
)
def test_an_error_of_any_kind_while_keras_is_imported_becomes_that_line(tmp_path, monkeypatch, error, received):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(InputError) as raised, importing():
        raise error
    line = str(raised.value)
    assert line.startswith(f"Keras must be able to use its settings: mend or remove them. Received: {received}")
    assert line.endswith(f", of {tmp_path / 'keras.json'} or a variable KERAS_...") and "\n" not in line
    assert raised.value.__cause__ is error


def test_that_keras_is_not_installed_is_told_as_what_it_is():
    with pytest.raises(ImportError, match="no keras"), importing():
        raise ImportError("no keras")


def test_the_backend_that_is_imported_counts(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # too late to have an effect
    require_tensorflow()
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(InputError, match="Received: KERAS_BACKEND=torch"):
        mulsupcon_tf.ContrastivePretrainer  # noqa: B018 looking it up is what is refused
    assert mulsupcon_tf.losses_on_arrays  # runs on any backend


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("image_data_format", "channels_first", "channels_last"),
        ("floatx", "float16", "float32"),
        ("floatx", "float64", "float32"),
    ],
)
def test_a_network_is_not_built_under_settings_that_would_change_it(name, value, wanted):
    getattr(keras.config, f"set_{name}")(value)
    try:
        for kind in (("resnet8", (32, 32, 3)), ("mlp", (4,))):
            with pytest.raises(InputError, match=rf"{name} {wanted}: keras.config.set_{name}.* Received: {value} "):
                build_backbone(*kind, train_features=np.zeros((2, 4), np.float32))
        settle()
        assert build_backbone("resnet8", (32, 32, 3)).layers[2].kernel.shape == (3, 3, 3, 32)
    finally:
        settle()
