"""What earlier versions wrote is still read.

`earlier_runs/flat_package.tar.xz` was written by version 0.1.0 while its modules still lay in one folder, before the
losses were the published ones: the run directory of a fine-tuning on 60 rows of numbers, most weights 0 so that it is
small, what that version made of the test rows, and settings and summary of the pretraining before it.
"""

import json
import pathlib
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.evaluating import evaluate_run
from mulsupcon_tf.commands.finished_run import open_run
from mulsupcon_tf.config.program_flags import EvaluateConfig
from tests.helpers.forking import forked_binary

CLIENT = """
import json, sys
import tensorflow as tf
features = tf.constant(json.load(sys.stdin), tf.float32)
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](features=features)
print(json.dumps({name: values.numpy().tolist() for name, values in served.items()}))
assert not any(name.startswith("mulsupcon_tf") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(pathlib.Path(__file__).parent / "earlier_runs" / "flat_package.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_a_keras_model_gives_what_it_gave(earlier):
    model = keras.models.load_model(earlier / "classifier" / "model.keras", compile=False)
    rows, expected = arrays_of(earlier / "data" / "test.npz"), arrays_of(earlier / "classifier" / "test_outputs.npz")
    probabilities, embedding = model.embed_and_classify(rows["features"])
    np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-6)
    np.testing.assert_allclose(embedding, expected["embedding"], atol=1e-6)
    assert np.ptp(expected["probabilities"], axis=0).min() > 1e-3  # the rows are not all alike


@pytest.mark.slow
def test_a_saved_model_serves_what_it_served(earlier):
    rows, expected = arrays_of(earlier / "data" / "test.npz"), arrays_of(earlier / "classifier" / "test_outputs.npz")
    done = subprocess.run(
        [sys.executable, "-I", "-c", CLIENT, str(earlier / "classifier" / "saved_model")],
        input=json.dumps(rows["features"].tolist()),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        cwd=earlier,
    )
    assert done.returncode == 0, done.stderr
    served = json.loads(done.stdout)
    np.testing.assert_allclose(served["probabilities"], expected["probabilities"], atol=1e-6)
    np.testing.assert_allclose(served["embedding"], expected["embedding"], atol=1e-6)


def test_a_run_directory_is_judged_as_it_was(earlier):
    summary = json.loads((earlier / "classifier" / "summary.json").read_text(encoding="utf-8"))
    for split, key in (("validation", "val"), ("test", "test")):
        results = evaluate_run(
            EvaluateConfig(workdir=str(earlier / "classifier"), data_dir=str(earlier / "data"), split=split)
        )
        assert results[key] == pytest.approx(summary[key], abs=1e-12)
    assert results["thresholds"] == summary["thresholds"]


def test_a_run_directory_is_opened_with_its_features(earlier):
    run = open_run(str(earlier / "classifier"), str(earlier / "data"))
    expected = arrays_of(earlier / "classifier" / "test_outputs.npz")
    np.testing.assert_allclose(run.outputs("test")["features"], expected["embedding"], atol=1e-6)


def test_a_pretraining_of_the_reconstruction_is_refused_in_a_line_that_says_why(earlier, tmp_path):
    done = forked_binary(
        "finetune",
        dataset="npz",
        data_dir=earlier / "data",
        pretrained=earlier / "encoder",
        workdir=tmp_path / "new",
    )
    *counts, line = done.stderr.splitlines()  # the count of samples without a label comes first
    assert done.returncode == 1 and len(counts) <= 1
    assert line.startswith("error: ") and "earlier versions trained a reconstruction" in line and "--rho=0.5" in line
    assert not (tmp_path / "new").exists()
