"""Served as TensorFlow Serving does it, by the commands of docs/serving.md."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.evaluation.thresholds import as_float32
from mulsupcon_tf.serving.saved_model import load_saved_model, write_saved_model
from tests.helpers.portable_models import NAMES, THRESHOLDS, classifier_and_samples
from tests.helpers.serving_stand_in import Servable, grpc_server, http_server

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
(CLIENT,) = re.findall(r"```python\n(import grpc\n.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a photo, vectors, and models in the layout of the server."""
    folder = tmp_path_factory.mktemp("serving")
    for name, kind in (("digits", "images"), ("scene", "features")):
        model, samples = classifier_and_samples(kind)
        write_saved_model(model, folder / "models" / name / "12", label_names=NAMES, thresholds=THRESHOLDS)
        if kind == "images":
            Image.fromarray(samples[0].astype(np.uint8)).resize((50, 70)).save(folder / "photo.jpg")
        else:
            np.save(folder / "features.npy", samples[:3])
    (folder / "models" / "digits" / "9").mkdir()  # an older version, and what a killed export has left
    (folder / "models" / "digits" / ".partial-7-13").mkdir()
    return folder


@pytest.fixture(scope="module")
def servables(place):
    return {name: Servable(place / "models" / name) for name in ("digits", "scene")}


@pytest.fixture(scope="module")
def http(servables):
    with http_server(servables) as port:
        yield port


@pytest.fixture(scope="module")
def expected(place):
    """What the models say when Python loads them."""
    serve = {
        name: load_saved_model(place / "models" / name / "12").signatures["serving_default"]
        for name in ("digits", "scene")
    }
    return {
        "digits": serve["digits"](image_bytes=tf.constant([(place / "photo.jpg").read_bytes()])),
        "scene": serve["scene"](features=tf.constant(np.load(place / "features.npy"))),
    }


def run_command(number, place, port):
    """A bash block of the page, in the folder, with the server's port in place of 8501."""
    if not shutil.which("curl") or not shutil.which("bash"):
        pytest.skip("the commands of the page need bash and curl")
    command = (
        COMMANDS[number].replace("localhost:8501", f"127.0.0.1:{port}").replace("python -c", f"{sys.executable} -c")
    )
    done = subprocess.run(["bash", "-c", command], cwd=place, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def post(port, model, **request):
    url = f"http://127.0.0.1:{port}/v1/models/{model}:predict"
    try:
        with urllib.request.urlopen(url, json.dumps(request).encode(), timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


def assert_same(rows, outputs):
    for name, values in outputs.items():
        np.testing.assert_allclose([row[name] for row in rows], values, rtol=1e-5, atol=1e-6)


def test_the_newest_whole_version_is_served(place, http):
    assert run_command(0, place, http)["model_version_status"][0] == {"version": "12", "state": "AVAILABLE"}


def test_a_jpeg_over_http(place, http, expected):
    assert_same(run_command(1, place, http)["predictions"], expected["digits"])


def test_vectors_over_http(place, http, expected):
    assert_same(run_command(2, place, http)["predictions"], expected["scene"])


def test_label_names_and_thresholds_over_http(place, http):
    outputs = run_command(3, place, http)["outputs"]
    assert outputs["label_names"] == list(NAMES)
    assert dict(zip(outputs["threshold_names"], outputs["thresholds"], strict=True)) == as_float32(THRESHOLDS)


def test_rows_may_name_their_input_and_columns_are_answered_as_columns(place, http, expected):
    features = np.load(place / "features.npy").tolist()
    assert_same(
        post(http, "scene", instances=[{"features": row} for row in features])["predictions"], expected["scene"]
    )
    columns = post(http, "scene", inputs={"features": features})["outputs"]
    np.testing.assert_allclose(columns["probabilities"], expected["scene"]["probabilities"], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "request_body", "message"),
    [
        ("scene", {"signature_name": "metadata", "inputs": {}}, "Failed to get input map for signature: metadata"),
        ("scene", {"instances": [[1.0, 2.0]]}, "Cannot feed value of shape|expected|incompatible|must"),
        ("digits", {"instances": [{"b64": "bm8gcGljdHVyZQ=="}]}, "an image must be a JPEG, PNG, GIF, BMP or WebP"),
    ],
)
def test_what_cannot_be_answered_is_an_error_with_a_reason(http, model, request_body, message):
    assert re.search(message, post(http, model, **request_body)["error"])


def test_the_input_of_encoded_images_has_the_name_that_marks_bytes(servables):
    (name,) = servables["digits"].signature("").inputs
    assert name.endswith("_bytes")


def test_the_pages_client_over_grpc(place, servables, expected, capsys, monkeypatch):
    pytest.importorskip("grpc")
    pytest.importorskip("tensorflow_serving", reason="tensorflow-serving-api is not installed")
    monkeypatch.chdir(place)
    with grpc_server(servables) as port:
        exec(compile(CLIENT.replace("localhost:8500", f"127.0.0.1:{port}"), "docs/serving.md", "exec"), {})
    ((probabilities),) = expected["digits"]["probabilities"].numpy()
    chosen = [name for name, value in zip(NAMES, probabilities, strict=True) if value > THRESHOLDS["example_f1"]]
    assert capsys.readouterr().out == f"{chosen}\n"
