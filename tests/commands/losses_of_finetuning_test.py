"""`finetune --loss` and `--class_weights`, from the command's settings to the model that is served."""

import json

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.evaluating import evaluate_run
from mulsupcon_tf.commands.exporting import export_run
from mulsupcon_tf.commands.finetuning import finetune, fit_on_validation
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig, ExportConfig, PredictConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.calibration import Calibration, fit_calibration
from mulsupcon_tf.losses.classification import balanced_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.predict import main as predict
from mulsupcon_tf.reporting.document import write_report
from mulsupcon_tf.reporting.inputs import Run
from mulsupcon_tf.serving.saved_model import load_saved_model
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from tests.helpers.html_page import Page
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_vectors, write_npz
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
    expected = Calibration(**summary["calibration"]).of(np.asarray(model(held.inputs)))
    np.testing.assert_allclose(served["probabilities"], expected, atol=1e-5)
    assert (summary["calibration"]["offset"] != 0) == (loss != "bce" or RUNS[loss] != "none")
    fitted = fit_calibration(split.labels, logits, with_offset=True)
    assert fitted == pytest.approx((*summary["calibration"].values(),), rel=1e-2, abs=1e-2)
    with np.load(run.path / "test_outputs.npz") as outputs:
        np.testing.assert_allclose(served["probabilities"], outputs["probabilities"], atol=1e-6)
    by_label = evaluate_run(EvaluateConfig(workdir=str(run.path), threshold="per_label"))
    with np.load(run.path / "test_outputs.npz") as outputs:
        decided = outputs["probabilities"] > np.array(by_label["thresholds"]["hamming_accuracy"], np.float32)
    assert by_label["test"]["hamming_accuracy"] == pytest.approx((decided == held.labels).mean())
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


def noisy_vectors():
    """So few samples for so much noise that neighbours help, and none is sure."""
    dataset = tiny_vectors(sizes={"train": 120, "validation": 80, "test": 40})
    rng = np.random.default_rng(1)
    scale = dataset.splits["train"].inputs.std(0)
    for split in dataset.splits.values():
        split.inputs[:] += 1.2 * scale * rng.normal(size=split.inputs.shape).astype(np.float32)
    return dataset


@pytest.mark.parametrize("shift", [-3.0, 2.0])
def test_where_zero_means_nothing_the_mixture_does_not_hang_on_it(shift):
    """As with two_way, of whose logits only differences count: with all of them moved, neighbours say as much as before."""
    dataset = noisy_vectors()
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    keras.utils.set_random_seed(0)
    model = MultiLabelClassifier(build_backbone("mlp", (10,), train_features=dataset.train_features), len(LABEL_NAMES))
    features = np.asarray(model.embed_and_classify(train.inputs)[1])
    targets = 2.0 * train.labels - 1
    kernel = features.T @ np.linalg.solve(features @ features.T + 20 * np.eye(len(features)), targets)
    config = FinetuneConfig(mix_neighbours=True)
    found = []
    for moved in (0.0, shift):
        model.calibrate(1.0)
        model.head.set_weights([3 * kernel, np.full(len(LABEL_NAMES), moved)])
        judged, entries = fit_on_validation(model, train, validation, config, zero_is_even=False)
        found.append((entries, np.asarray(judged.embed_and_classify(dataset.splits["test"].inputs)[0])))
    (first, probabilities), (second, others) = found
    assert 0 < first["neighbours"]["share"] < 1
    assert first["calibration"]["offset"] == 0
    temperature = first["neighbours"]["network_temperature"]
    assert second["neighbours"]["network_offset"] == pytest.approx(
        first["neighbours"]["network_offset"] - shift / temperature, abs=1e-2
    )
    for name in ("num_neighbours", "temperature", "share"):
        assert first["neighbours"][name] == second["neighbours"][name]
    np.testing.assert_allclose(probabilities, others, atol=1e-3)


def test_neighbours_beside_the_two_way_loss_are_saved_with_both_calibrations(tmp_path):
    data = str(write_npz(noisy_vectors(), tmp_path / "noisy"))
    run = RunDirectory(tmp_path / "run")
    settings = {"epochs": 6, "batch_size": 32, "learning_rate": 0.01, "loss": "two_way", "mix_neighbours": True}
    summary = finetune(FinetuneConfig(dataset="npz", data_dir=data, workdir=str(run.path), **settings))
    model = keras.models.load_model(run.keras_model)
    mixture = summary["neighbours"]
    assert mixture["share"] > 0 and mixture["network_offset"] != 0
    assert {name: value for name, value in model.get_config().items() if name in mixture} == mixture
    assert evaluate_run(EvaluateConfig(workdir=str(run.path)))["test"] == pytest.approx(summary["test"], abs=1e-6)


def test_what_is_served_decides_by_the_thresholds_of_the_labels(tmp_path, capsys):
    dataset = tiny_vectors(sizes={"train": 64, "validation": 60, "test": 24})
    validation = dataset.splits["validation"]
    validation.labels[:, 0] = np.arange(60) % 5 > 0  # nothing tells who has it: best given to everybody
    data = str(write_npz(dataset, tmp_path / "vectors"))
    run = RunDirectory(tmp_path / "run")
    settings = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "threshold": "per_label"}
    summary = finetune(FinetuneConfig(dataset="npz", data_dir=data, workdir=str(run.path), **settings))
    thresholds = np.array(summary["thresholds"]["example_f1"], np.float32)
    assert thresholds.shape == (4,) and len(set(thresholds.tolist())) > 1
    np.save(tmp_path / "test.npy", load_dataset("npz", data_dir=data).splits["test"].inputs)
    predict(PredictConfig(saved_model=str(run.saved_model)), [str(tmp_path / "test.npy")])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    with np.load(run.path / "test_outputs.npz") as outputs:
        for record, row in zip(records, outputs["probabilities"], strict=True):
            assert record["labels"] == [LABEL_NAMES[label] for label in np.flatnonzero(row > thresholds)]
    export_run(ExportConfig(workdir=str(run.path), output=str(tmp_path / "exported")))
    card = (tmp_path / "exported" / "MODEL_CARD.md").read_text()
    assert "| example_f1 |" in card and "| per label |" in card
    page = Page(write_report([run.path], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.row("metrics", "Macro-F1")[-1] == "per label"
    assert "Thresholds were chosen on validation, one for each metric and label." in page.text
