import io
import json
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.input_pipeline.batches import evaluation_batches
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.serving.saved_model import in_float32, load_saved_model, write_saved_model
from mulsupcon_tf.utils.errors import InputError
from tests.helpers import image_file_sets
from tests.helpers.tiny_datasets import IMAGE_SHAPE, LABEL_NAMES, tiny_images, tiny_vectors, write_npz

THRESHOLDS = {"macro_f1": 0.25, "example_f1": 0.5}
HALF = {tf.bfloat16.as_datatype_enum, tf.float16.as_datatype_enum}
# A client with TensorFlow alone: the import of this package fails, wherever it may be installed.
CLIENT = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mulsupcon_tf":
            raise ImportError("a client has no " + name)
sys.meta_path.insert(0, Forbidden())
try:
    import mulsupcon_tf
except ImportError as error:
    assert "a client has no" in str(error)
else:
    raise SystemExit("the package is there after all")
import json
import numpy as np
import tensorflow as tf
answers = {}
for name, model in json.load(sys.stdin).items():
    loaded = tf.saved_model.load(model["folder"])
    serve = loaded.signatures["serving_default"]
    if "files" in model:
        outputs = serve(image_bytes=tf.constant([open(file, "rb").read() for file in model["files"]]))
    else:
        outputs = serve(features=tf.constant(model["features"], tf.float32))
    metadata = {key: value.numpy() for key, value in loaded.signatures["metadata"]().items()}
    answers[name] = {
        "probabilities": outputs["probabilities"].numpy().tolist(),
        "embedding": outputs["embedding"].numpy().tolist(),
        "label_names": [text.decode() for text in metadata["label_names"]],
        "thresholds": dict(zip([text.decode() for text in metadata["threshold_names"]], metadata["thresholds"].tolist())),
    }
print(json.dumps(answers))
"""


def new_classifier(kind, policy="float32"):
    """Random weights, biases and statistics: none of them at its initial value."""
    keras.mixed_precision.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    if kind == "vector":
        backbone = build_backbone("mlp", (10,), train_features=tiny_vectors().splits["train"].inputs)
    else:
        backbone = build_backbone("resnet8", IMAGE_SHAPE)
    model = MultiLabelClassifier(backbone, len(LABEL_NAMES))
    rng = np.random.default_rng(0)
    model.set_weights(
        [weight + (weight.ndim == 1) * rng.uniform(0, 0.1, weight.shape) for weight in model.get_weights()]
    )
    return model


@pytest.fixture(scope="module")
def models():
    return {kind: new_classifier(kind) for kind in ("image", "vector")}


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for kind, model in models.items():
        write_saved_model(model, folder / kind, label_names=LABEL_NAMES, thresholds=THRESHOLDS)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Stored size, both formats; larger than the network's; grey; with transparency."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = tiny_images().splits["test"].inputs
    Image.fromarray(pixels[0]).save(folder / "a.png")
    Image.fromarray(pixels[1]).save(folder / "b.jpg", quality=90)
    Image.fromarray(pixels[2]).resize((50, 70)).save(folder / "c.jpg")
    Image.fromarray(pixels[3][..., 0]).save(folder / "d.png")
    Image.fromarray(np.concatenate([pixels[4], pixels[4][..., :1]], axis=-1)).save(folder / "e.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def answers(exported, pictures):
    """What a client without this package gets."""
    questions = {
        "image": {"folder": str(exported / "image"), "files": list(map(str, pictures))},
        "vector": {"folder": str(exported / "vector"), "features": tiny_vectors().splits["test"].inputs.tolist()},
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", CLIENT],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        check=False,
        cwd=pictures[0].parent,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected_of(model, samples):
    probabilities, embedding = model.embed_and_classify(tf.constant(samples, tf.float32))
    return probabilities.numpy(), embedding.numpy()


def test_a_client_with_tensorflow_alone_gets_the_models_answers_for_vectors(answers, models):
    probabilities, embedding = expected_of(models["vector"], tiny_vectors().splits["test"].inputs)
    assert probabilities.std() > 0.01
    np.testing.assert_allclose(answers["vector"]["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(answers["vector"]["embedding"], embedding, rtol=1e-4, atol=1e-5)


def test_a_client_with_tensorflow_alone_gets_the_models_answers_for_encoded_images(answers, models, pictures):
    height, width, _ = IMAGE_SHAPE
    resized = [image_file_sets.as_judged(path, (height, width)) for path in pictures]
    np.testing.assert_array_equal(resized[0], tiny_images().splits["test"].inputs[0])  # of that size already
    probabilities, embedding = expected_of(models["image"], np.stack(resized))
    assert np.ptp(probabilities, axis=0).max() > 0.01
    np.testing.assert_allclose(answers["image"]["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(answers["image"]["embedding"], embedding, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["image", "vector"])
def test_label_names_and_thresholds_travel_inside(answers, kind):
    assert answers[kind]["label_names"] == list(LABEL_NAMES)
    assert answers[kind]["thresholds"] == THRESHOLDS


@pytest.mark.parametrize(
    ("kind", "name", "shape", "dtype"),
    [("image", "image_bytes", [None], tf.string), ("vector", "features", [None, 10], tf.float32)],
)
def test_signatures_are_as_documented(exported, kind, name, shape, dtype):
    serve = load_saved_model(exported / kind).signatures["serving_default"]
    ((given, spec),) = serve.structured_input_signature[1].items()
    assert (given, spec.shape.as_list(), spec.dtype) == (name, shape, dtype)
    assert {name: (spec.dtype, spec.shape.rank) for name, spec in serve.structured_outputs.items()} == {
        "probabilities": (tf.float32, 2),
        "embedding": (tf.float32, 2),
    }


@pytest.mark.parametrize("kind", ["image", "vector"])
def test_weights_are_stored_once(exported, models, kind):
    parameters = 4 * models[kind].count_params()
    variables = sum(path.stat().st_size for path in (exported / kind / "variables").iterdir())
    assert parameters <= variables < 1.02 * parameters + 10_000
    everything = sum(path.stat().st_size for path in (exported / kind).rglob("*") if path.is_file())
    assert everything < variables + 600_000  # the graph holds no second copy


def test_no_partial_folder_stays_and_an_older_export_is_replaced(models, tmp_path):
    (tmp_path / "deep" / ".partial-77-model" / "variables").mkdir(parents=True)  # of a process that was killed
    for names in (LABEL_NAMES, LABEL_NAMES[::-1]):
        write_saved_model(models["vector"], tmp_path / "deep" / "model", label_names=names, thresholds=THRESHOLDS)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]
    stored = load_saved_model(tmp_path / "deep" / "model").signatures["metadata"]()["label_names"].numpy()
    assert [name.decode() for name in stored] == list(LABEL_NAMES[::-1])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_left_behind(policy):
    trained = new_classifier("image", policy)
    twin = in_float32(trained)
    for one, other in zip(trained.weights, twin.weights, strict=True):
        assert other.dtype == ("int64" if "bad_steps" in other.path else "float32")
        np.testing.assert_array_equal(one, other)
    assert {layer.compute_dtype for layer in [twin, twin.backbone, *twin.backbone.layers]} == {"float32"}
    keras.mixed_precision.set_dtype_policy("float32")
    plain = new_classifier("image")
    samples = tiny_images().splits["test"].inputs
    np.testing.assert_array_equal(expected_of(twin, samples)[0], expected_of(plain, samples)[0])
    assert not np.array_equal(expected_of(trained, samples)[0], expected_of(plain, samples)[0])


def dtypes_of(model, samples):
    """Of all that is computed on the way to an answer, those of functions that are called in it too."""
    answer = tf.function(model.embed_and_classify, autograph=False).get_concrete_function(
        tf.TensorSpec(samples.shape, tf.float32)
    )
    graph = answer.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {attribute.type for node in nodes for attribute in node.attr.values() if attribute.type}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "policy"), [("resnet50", "mixed_bfloat16"), ("convnext-tiny", "mixed_float16")])
def test_half_precision_is_left_behind_in_networks_that_are_not_made_of_layers_alone(name, policy):
    keras.mixed_precision.set_dtype_policy(policy)
    trained = MultiLabelClassifier(build_backbone(name, (32, 32, 3)), 3)
    twin = in_float32(trained)
    assert keras.config.dtype_policy().name == policy
    for one, other in zip(trained.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    samples = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    assert dtypes_of(trained, samples) & HALF
    assert not dtypes_of(twin, samples) & HALF


def mixed_backbone():
    """Operations, one of which names a dtype; a model in the model; a layer in a layer; a policy for each layer."""
    inputs = keras.Input((4, 6))
    x = keras.ops.flip(inputs, axis=-1) + 1.0
    x = keras.Sequential([keras.Input((4, 6)), keras.layers.Dense(5, activation="tanh")])(x)
    x = keras.layers.TimeDistributed(keras.layers.Dense(3))(
        keras.ops.cast(x, keras.config.dtype_policy().compute_dtype)
    )
    policies = keras.dtype_policies.DTypePolicyMap(default_policy=keras.config.dtype_policy())
    x = keras.layers.Dense(4, dtype=policies)(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Activation("tanh")(x), name="backbone")


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float16"])
def test_half_precision_is_left_behind_wherever_a_network_names_it(policy):
    keras.mixed_precision.set_dtype_policy(policy)
    trained = MultiLabelClassifier(mixed_backbone(), 3)
    twin = in_float32(trained)
    keras.mixed_precision.set_dtype_policy("float32")
    plain = MultiLabelClassifier(mixed_backbone(), 3)
    plain.set_weights(trained.get_weights())
    samples = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    assert dtypes_of(trained, samples) & HALF
    assert not dtypes_of(twin, samples) & HALF
    for one, other in zip(twin.embed_and_classify(samples), plain.embed_and_classify(samples), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_network_that_is_in_float32_already_is_not_copied(models):
    for trained in models.values():
        trained.compile(optimizer="adam", loss="mse")
        twin = in_float32(trained)
        assert twin.backbone is trained.backbone
        assert not twin.compiled  # else the file of the model would hold the optimizer's state
        np.testing.assert_array_equal(twin.head.kernel, trained.head.kernel)


@pytest.mark.parametrize("precision", [pytest.param("bfloat16", marks=pytest.mark.slow), "float16"])
def test_what_was_trained_in_half_precision_is_saved_and_served_in_float32(tmp_path, precision):
    data = write_npz(tiny_vectors(), tmp_path / "data")
    settings = {"epochs": 2, "batch_size": 16, "mixed_precision": precision}
    finetune(FinetuneConfig(dataset="npz", data_dir=str(data), workdir=str(tmp_path / "run"), **settings))
    keras.mixed_precision.set_dtype_policy("float32")
    model = keras.models.load_model(tmp_path / "run" / "model.keras", compile=False)
    assert {layer.compute_dtype for layer in model.backbone.layers} == {"float32"}
    loaded = load_saved_model(tmp_path / "run" / "saved_model")
    assert {variable.dtype for variable in loaded.signatures["serving_default"].variables} <= {tf.float32}
    samples = tiny_vectors().splits["test"].inputs
    served = loaded.signatures["serving_default"](features=tf.constant(samples))["probabilities"]
    np.testing.assert_allclose(served, expected_of(model, samples)[0], atol=1e-5)
    np.testing.assert_allclose(np.load(tmp_path / "run" / "test_outputs.npz")["probabilities"], served, atol=1e-5)


@pytest.mark.parametrize("name", ["runs [2]", "a\\\\b", "ü *, ?"])
def test_a_folder_may_have_a_name_that_tensorflow_takes_for_a_pattern(exported, tmp_path, name):
    folder = shutil.copytree(exported / "vector", tmp_path / name / "model")
    samples = tf.constant(tiny_vectors().splits["test"].inputs)
    answers = [
        load_saved_model(each).signatures["serving_default"](features=samples) for each in (exported / "vector", folder)
    ]
    np.testing.assert_array_equal(*(answer["probabilities"] for answer in answers))


def test_what_is_no_export_is_refused_in_one_line(tmp_path):
    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([])])
        def double(self, x):
            return {"y": 2 * x}

    other = Other()
    tf.saved_model.save(other, str(tmp_path / "other"), signatures={"serving_default": other.double})
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"not a graph")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "saved_model.pb").touch()
    for name, message in (
        ("nowhere", r"must be a folder written by export\. Received: .*nowhere \(SavedModel file does not exist"),
        ("empty", r"must be a folder written by export\. Received: .*empty"),
        ("broken", r"must be a folder written by export\. Received: .*broken"),
        ("hollow", r"must be a folder written by export\. Received: .*hollow"),
        ("other", r"signatures serving_default and metadata\. Received: .* with \['serving_default'\]"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            load_saved_model(tmp_path / name)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["image", "vector"])
def test_no_sample_gets_no_answer(exported, models, kind):
    serve = load_saved_model(exported / kind).signatures["serving_default"]
    nothing = {"image": {"image_bytes": tf.constant([], tf.string)}, "vector": {"features": tf.zeros((0, 10))}}[kind]
    answer = serve(**nothing)
    assert answer["probabilities"].shape == (0, len(LABEL_NAMES))
    assert answer["embedding"].shape == (0, models[kind].backbone.output_shape[1])


def test_an_image_that_does_not_decode_is_an_error_of_the_call(exported):
    serve = load_saved_model(exported / "image").signatures["serving_default"]
    whole = io.BytesIO()
    Image.fromarray(tiny_images().splits["test"].inputs[0]).save(whole, "png")
    with pytest.raises(tf.errors.InvalidArgumentError):
        serve(image_bytes=tf.constant([whole.getvalue(), b"no picture"]))


def test_what_is_served_is_what_was_judged(tmp_path):
    """Files of many sizes, through the pipeline of evaluation and through the served model."""
    keras.utils.set_random_seed(0)
    size = 32
    model = MultiLabelClassifier(build_backbone("resnet8", (size, size, 3)), len(image_file_sets.LABEL_NAMES))
    write_saved_model(model, tmp_path / "model", label_names=image_file_sets.LABEL_NAMES, thresholds=THRESHOLDS)
    split = image_file_sets.write_image_files(tmp_path / "data").splits["test"]
    ((images, _),) = evaluation_batches(split, batch_size=8, image_size=size)
    probabilities, embedding = model.embed_and_classify(images)
    encoded = tf.constant([pathlib.Path(path).read_bytes() for path in split.inputs.paths])
    answer = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](image_bytes=encoded)
    np.testing.assert_allclose(answer["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(answer["embedding"], embedding, rtol=1e-4, atol=1e-4)
