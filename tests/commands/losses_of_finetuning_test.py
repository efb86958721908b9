"""`finetune --loss` and `--class_weights`, from the command's settings to the model that is served."""

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.evaluating import evaluate_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.calibration import Calibration, fit_calibration
from mulsupcon_tf.losses.classification import balanced_weights
from mulsupcon_tf.reporting.inputs import Run
from mulsupcon_tf.serving.saved_model import load_saved_model
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from tests.helpers.tiny_datasets import tiny_vectors, write_npz
from tests.losses.classification_test import NAIVE

RUNS = {"bce": "balanced", "asl": "balanced", "two_way": "none", "zlpr": "none"}
DEFAULT = ("asl", "two_way")  # the others take as long, and every loss runs in choices_test too


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_npz(tiny_vectors(), tmp_path_factory.mktemp("losses") / "vectors"))


@pytest.mark.parametrize(
    "loss", [*DEFAULT, *(pytest.param(name, marks=pytest.mark.slow) for name in RUNS if name not in DEFAULT)]
)
def test_the_loss_is_validated_by_trained_with_and_learnt_from(loss, data, tmp_path):
    settings = {"epochs": 12, "batch_size": 16, "learning_rate": 0.01, "select_by": "loss"}
    run = RunDirectory(tmp_path / "run")
    summary = finetune(
        FinetuneConfig(
            dataset="npz", data_dir=data, workdir=str(run.path), loss=loss, class_weights=RUNS[loss], **settings
        )
    )
    dataset = load_dataset("npz", data_dir=data)
    split = dataset.splits["validation"]
    model = keras.models.load_model(run.keras_model)
    logits = np.asarray(model(split.inputs), np.float64)
    weights = [balanced_weights(dataset.splits["train"].labels)] if RUNS[loss] == "balanced" else []
    record = run.epochs()[summary["best_epoch"] - 1]
    assert record["val_loss"] == pytest.approx(NAIVE[loss](split.labels, logits, *weights), rel=1e-4)
    assert record["val_loss"] == min(each["val_loss"] for each in run.epochs())
    assert record["loss"] < run.epochs()[0]["loss"]
    assert summary["test"]["mAP"] > 0.75  # 0.5 for nothing
    again = evaluate_run(EvaluateConfig(workdir=str(run.path)))
    assert again["test"] == pytest.approx(summary["test"], abs=1e-6)
    served = load_saved_model(run.saved_model).signatures["serving_default"](features=dataset.splits["test"].inputs)
    held = dataset.splits["test"]
    expected = Calibration(**summary["calibration"]).of(1 / (1 + np.exp(-np.asarray(model(held.inputs), np.float64))))
    np.testing.assert_allclose(served["probabilities"], expected, atol=1e-5)
    assert (summary["calibration"]["offset"] != 0) == (loss != "bce" or RUNS[loss] != "none")
    fitted = fit_calibration(split.labels, 1 / (1 + np.exp(-logits)), with_offset=True)
    assert fitted == pytest.approx((*summary["calibration"].values(),), rel=1e-3, abs=1e-4)
    with np.load(run.path / "test_outputs.npz") as outputs:
        np.testing.assert_allclose(served["probabilities"], outputs["probabilities"], atol=1e-6)
    title = Run(run.path, summary, read_flags(run.flags_file), [], {}).title
    assert (
        title
        == {
            "bce": "BCE only",
            "asl": "no pretraining, asymmetric loss",
            "two_way": "no pretraining, two-way loss",
            "zlpr": "no pretraining, zero-bounded loss (ZLPR)",
        }[loss]
    )
