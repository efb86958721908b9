"""Files that hold classes of the package are read by Keras although nobody has imported these."""

import ast
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import mulsupcon_tf as m
from mulsupcon_tf.models.layers import BatchNormalization
from mulsupcon_tf.utils import keras_registry

PACKAGE = pathlib.Path(m.__file__).parent
READER = """
import sys
import mulsupcon_tf
assert not {"keras", "tensorflow"} & sys.modules.keys()
import keras
assert "mulsupcon_tf.models.layers" not in sys.modules
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    print(type(model).__name__, type(model.optimizer).__name__, type(model.loss).__name__)
"""


def classes_that_register():
    """By module, read from the source."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and "register_keras_serializable" in str(
                [ast.unparse(each) for each in node.decorator_list]
            ):
                module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
                found.setdefault(module, set()).add(node.name)
    return found


def test_every_class_that_registers_itself_has_a_stand_in():
    assert {module: set(names) for module, names in keras_registry.REGISTERED.items()} == classes_that_register()


def test_files_are_read_by_a_program_that_has_imported_nothing_but_the_package(tmp_path):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(16, 5)).astype("float32")
    labels = (samples[:, :3] > 0).astype("float32")
    classifier = m.MultiLabelClassifier(m.build_backbone("mlp", (5,), train_features=samples), 3)
    classifier.compile(m.KernelAdamW(1e-3), m.AsymmetricLoss(), metrics=[m.MeanAveragePrecision(3, from_logits=True)])
    own = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3), BatchNormalization()])
    own.compile(m.KernelSGD(0.1), m.ZLPRLoss())
    paths = [tmp_path / "classifier.keras", tmp_path / "own.keras"]
    for model, path in zip((classifier, own), paths, strict=True):
        model.train_on_batch(samples, labels)
        model.save(path)
    done = subprocess.run([sys.executable, "-c", READER, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "MultiLabelClassifier KernelAdamW AsymmetricLoss",
        "Sequential KernelSGD ZLPRLoss",
    ]


def test_a_program_that_has_imported_keras_before_gets_stand_ins_at_once(monkeypatch):
    known = keras.saving.get_custom_objects()
    monkeypatch.delitem(known, "mulsupcon_tf>ZLPRLoss")
    keras_registry.register()
    assert isinstance(known["mulsupcon_tf>ZLPRLoss"], keras_registry.StandIn)
    loss = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(m.ZLPRLoss(name="mine")))
    assert isinstance(loss, m.ZLPRLoss) and loss.name == "mine"
    assert known["mulsupcon_tf>TwoWayLoss"] is m.TwoWayLoss


def test_where_keras_runs_on_something_else_a_network_is_refused_and_a_loss_is_not(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    config = m.ZLPRLoss().get_config()
    assert isinstance(
        keras_registry.StandIn("losses.positives_against_negatives", "ZLPRLoss").from_config(config), m.ZLPRLoss
    )
    with pytest.raises(m.InputError, match="Keras must run on TensorFlow"):
        keras_registry.StandIn("models.layers", "Dropout").from_config({"rate": 0.5})
