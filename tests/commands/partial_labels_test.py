"""Labels that are unknown, from files of each format to what is trained, judged, refused and said."""

import h5py
import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from mulsupcon_tf.check import main as check
from mulsupcon_tf.commands.embedding import export_embeddings
from mulsupcon_tf.commands.evaluating import evaluate_retrieval, evaluate_run
from mulsupcon_tf.commands.exporting import export_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import CheckConfig, EmbedConfig, EvaluateConfig, ExportConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.losses.classification import balanced_weights
from mulsupcon_tf.reporting.document import write_report
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError
from tests.evaluation.partial_labels_test import naive_metrics
from tests.helpers.tiny_datasets import tiny_vectors, write_npz
from tests.losses.classification_test import naive_bce

WORDS = {1.0: "yes", 0.0: "0"}


def hidden_labels(labels, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(labels.shape) < 0.25, np.nan, labels)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Vectors of whose labels a quarter is unknown, in all splits."""
    dataset = tiny_vectors()
    for seed, split in enumerate(dataset.splits.values()):
        object.__setattr__(split, "labels", hidden_labels(split.labels, seed))
    return str(write_npz(dataset, tmp_path_factory.mktemp("partial") / "vectors"))


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory):
    run = RunDirectory(tmp_path_factory.mktemp("tuned") / "run")
    settings = {"epochs": 10, "batch_size": 16, "learning_rate": 0.01, "class_weights": "balanced"}
    return run, finetune(FinetuneConfig(dataset="npz", data_dir=data, workdir=str(run.path), **settings))


def test_what_is_trained_and_judged_are_the_known_labels(tuned, data):
    run, summary = tuned
    dataset = load_dataset("npz", data_dir=data)
    test, train = dataset.splits["test"], dataset.splits["train"]
    assert 0.1 < np.isnan(test.labels).mean() < 0.4
    with np.load(run.path / "test_outputs.npz") as outputs:
        expected = naive_metrics(test.labels, outputs["probabilities"], summary["thresholds"])
    assert summary["test"] == pytest.approx(expected, abs=1e-6)
    assert summary["test"]["mAP"] > 0.8
    known = [train.labels[~np.isnan(train.labels[:, label]), label] for label in range(4)]
    assert summary["label_frequencies"] == pytest.approx([each.mean() for each in known], abs=1e-6)
    assert evaluate_run(EvaluateConfig(workdir=str(run.path)))["test"] == pytest.approx(summary["test"], abs=1e-6)


@pytest.mark.slow
def test_a_quantised_export_is_judged_by_what_is_known(tuned, data, tmp_path):
    run, summary = tuned
    output = tmp_path / "model"
    export_run(ExportConfig(workdir=str(run.path), output=str(output), format="litert", quantize="int8"))
    test = load_dataset("npz", data_dir=data).splits["test"]
    given = Interpreter(str(output / "model.tflite")).get_signature_runner()(features=test.inputs)["probabilities"]
    expected = [naive_metrics(test.labels, given, summary["thresholds"])["mAP"], summary["test"]["mAP"]]
    after, before = (100 * each for each in expected)
    card = (output / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"mAP on test: {before:.1f} before, in float32; {after:.1f} after" in card


def test_the_validation_loss_is_the_masked_one(data, tmp_path):
    settings = {"epochs": 1, "batch_size": 16, "class_weights": "balanced", "calibration": "none", "select_by": "loss"}
    run = RunDirectory(tmp_path / "run")
    finetune(FinetuneConfig(dataset="npz", data_dir=data, workdir=str(run.path), threshold="per_label", **settings))

    dataset = load_dataset("npz", data_dir=data)
    split = dataset.splits["validation"]
    logits = np.asarray(keras.models.load_model(run.keras_model)(split.inputs), np.float64)
    weights = balanced_weights(dataset.splits["train"].labels)
    assert run.epochs()[0]["val_loss"] == pytest.approx(naive_bce(split.labels, logits, weights), rel=1e-4)


def test_a_pretraining_shares_what_is_known_and_refuses_what_needs_more(data, tmp_path):
    common = {"dataset": "npz", "data_dir": data, "epochs": 1, "batch_size": 16, "queue_size": 16}
    pretrain(PretrainConfig(**common, method="mulsupcon", workdir=str(tmp_path / "whole")))
    dataset = load_dataset("npz", data_dir=data).with_known_positives()
    known = write_npz(dataset, tmp_path / "known")  # the same positives, and nothing unknown
    pretrain(PretrainConfig(**common | {"data_dir": str(known)}, method="mulsupcon", workdir=str(tmp_path / "other")))
    losses = [RunDirectory(tmp_path / name).epochs()[0]["contrastive_loss"] for name in ("whole", "other")]
    assert losses[0] == losses[1]
    for settings in (
        {"method": "cld"},
        {"method": "jaccard"},
        {"method": "any", "bce_weight": 1.0},
        {"monitor_every": 1},
    ):
        with pytest.raises(
            InputError, match=r"needs labels that are all known\. Received: .* unknown in dataset 'npz'"
        ):
            pretrain(PretrainConfig(**common | {"method": "any"} | settings, workdir=str(tmp_path / "refused")))
        assert not (tmp_path / "refused").exists()


def test_what_reads_all_labels_refuses_unknown_ones(tuned, data, tmp_path):
    run, _ = tuned
    calls = {
        "--retrieval": lambda: evaluate_retrieval(EvaluateConfig(workdir=str(run.path), retrieval=True)),
        "A report": lambda: write_report([run.path], tmp_path / "report.html"),
        "--mix_neighbours": lambda: finetune(
            FinetuneConfig(dataset="npz", data_dir=data, workdir=str(tmp_path / "mixed"), mix_neighbours=True)
        ),
    }
    for what, call in calls.items():
        with pytest.raises(InputError, match=f"^{what} needs labels that are all known. Received: ") as error:
            call()
        assert "\n" not in str(error.value)
    export_embeddings(EmbedConfig(workdir=str(run.path), output=str(tmp_path / "e.npz")))
    with np.load(tmp_path / "e.npz") as embedded:
        np.testing.assert_array_equal(embedded["labels"], load_dataset("npz", data_dir=data).splits["test"].labels)


def test_check_counts_what_is_unknown(data, capsys):
    check(CheckConfig(dataset="npz", data_dir=data, timed_steps=0))
    splits = load_dataset("npz", data_dir=data).splits
    counts = {name: int(splits[name].unknown.sum()) for name in ("train", "validation", "test")}
    line = ", ".join(f"{count} in {name}" for name, count in counts.items())
    assert f"unknown labels, left out of losses and metrics: {line}\n" in capsys.readouterr().out


def test_check_says_that_a_pretraining_refuses_what_is_unknown_and_times_none(data, capsys):
    check(CheckConfig(dataset="npz", data_dir=data, batch_size=16))
    lines = capsys.readouterr().out.splitlines()
    with pytest.raises(InputError) as refused:
        pretrain(PretrainConfig(dataset="npz", data_dir=data, batch_size=16, workdir="/nowhere/run"))
    assert f"- a pretraining with these flags is refused: {refused.value}" in lines
    assert lines[-1].startswith("nothing is timed, since")
    check(CheckConfig(dataset="npz", data_dir=data, batch_size=16, method="any", epochs=2, timed_steps=1))
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "refused" in line]
    assert [line for line in lines if line.startswith("time for these steps")]


def table_of(folder):
    """60 samples with two features; labels of which some are unknown."""
    rng = np.random.default_rng(1)
    labels = hidden_labels((rng.random((60, 3)) < 0.5).astype(float), 2)
    labels[:, 0] = np.where(np.isnan(labels[:, 0]), 1, labels[:, 0])  # of one all are known
    folder.mkdir()
    return labels, rng.normal(size=(60, 2)).astype(np.float32)


def read_back(name, folder, vectors):
    """Labels as they are read, in the order of the samples."""
    rows = {}
    for split in load_dataset(name, data_dir=str(folder)).splits.values():
        rows |= {vector.tobytes(): labels for vector, labels in zip(split.inputs, split.labels, strict=True)}
    return np.array([rows[vector.tobytes()] for vector in vectors])


def test_hdf5_and_npz_say_unknown_by_minus_one_or_nan(tmp_path):
    labels, vectors = table_of(tmp_path / "hdf5")
    (tmp_path / "npz").mkdir()
    for part, rows in (("train", slice(0, 40)), ("test", slice(40, 60))):
        with h5py.File(tmp_path / "hdf5" / f"{part}.h5", "w") as file:
            file["feature"], file["target"] = vectors[rows], np.nan_to_num(labels[rows], nan=-1).astype(np.int8)
        np.savez(tmp_path / "npz" / f"{part}.npz", features=vectors[rows], labels=labels[rows])
    np.testing.assert_array_equal(read_back("hdf5", tmp_path / "hdf5", vectors), labels)
    np.testing.assert_array_equal(read_back("npz", tmp_path / "npz", vectors), labels)


def test_arff_says_unknown_by_a_question_mark(tmp_path):
    labels, vectors = table_of(tmp_path / "arff")
    head = "@relation r\n@attribute x numeric\n@attribute y numeric\n"
    head += "@attribute a {0,1}\n@attribute b {0,1}\n@attribute c numeric\n@data\n"
    rows = [
        ",".join([repr(float(x)) for x in vector] + ["?" if np.isnan(y) else str(int(y)) for y in known])
        for vector, known in zip(vectors, labels, strict=True)
    ]
    (tmp_path / "arff" / "d.arff").write_text(head + "\n".join(rows) + "\n")
    listed = "".join(f'<label name="{name}"/>' for name in "abc")
    (tmp_path / "arff" / "d.xml").write_text(f"<labels>{listed}</labels>")
    np.testing.assert_array_equal(read_back("arff", tmp_path / "arff", vectors), labels)
    text = (tmp_path / "arff" / "d.arff").read_text().replace(rows[3], "?" + rows[3][rows[3].index(",") :])
    (tmp_path / "arff" / "d.arff").write_text(text)
    with pytest.raises(InputError, match=r"ARFF values must be present and finite\. .* attribute 'x'"):
        load_dataset("arff", data_dir=str(tmp_path / "arff"))


def test_csv_says_unknown_by_an_empty_cell_a_question_mark_or_minus_one(tmp_path):
    labels, _ = table_of(tmp_path / "csv")
    lines, unknown = ["file,a,b,c"], iter(["", "?", "-1"] * 60)
    for number, row in enumerate(labels):
        Image.new("RGB", (16, 16), (number * 4, 0, 0)).save(tmp_path / "csv" / f"{number}.png")
        lines.append(",".join([f"{number}.png", *(next(unknown) if np.isnan(y) else WORDS[y] for y in row)]))
    (tmp_path / "csv" / "labels.csv").write_text("\n".join(lines) + "\n")
    found = {}
    for split in load_dataset("csv", data_dir=str(tmp_path / "csv")).splits.values():
        found |= dict(zip(split.inputs.names, split.labels, strict=True))
    np.testing.assert_array_equal([found[f"{number}.png"] for number in range(60)], labels)
