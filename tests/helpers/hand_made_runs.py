"""Run directories written by hand, with outputs that were drawn and results that belong to them: no training."""

import dataclasses
import json
import pathlib

import numpy as np

from mulsupcon_tf.config.fields import as_flag_lines
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.distribution_distances import judge_recovery
from mulsupcon_tf.evaluation.results import evaluate_splits
from mulsupcon_tf.evaluation.retrieval import evaluate_embeddings
from mulsupcon_tf.experiments.retrieval import retrieval_file
from mulsupcon_tf.experiments.run_data import RunData
from mulsupcon_tf.experiments.runner import resolved_settings
from mulsupcon_tf.utils.choices import DISTRIBUTION_METHODS

SIZES = {"train": 40, "validation": 24, "test": 36}  # enough test samples for a map


def write_run(
    folder,
    *,
    data_dir,
    phase,
    method,
    seed=0,
    dataset_name="npz",
    epochs=3,
    fingerprint=True,
    validated=True,
    threshold=None,
    selected_by=None,
    bad_images=(),
    **options,
) -> pathlib.Path:
    """A finished run whose probabilities or distributions are random; options are those of `load_dataset`.

    The first version stored no fingerprint. Without `validated` the run kept no validation apart, as the paper does.
    Of image files those of `bad_images`, below `data_dir`, were left out.
    """
    dataset = stored = load_dataset(dataset_name, data_dir=str(data_dir), **options)
    folder.mkdir(parents=True)
    if bad_images:
        (folder / "bad_images.txt").write_text("".join(f"{name}\tit is empty\n" for name in bad_images))
        kept = {name: np.isin(stored.splits[name].inputs.names, bad_images, invert=True) for name in stored.splits}
        splits = {name: split[kept[name]] for name, split in stored.splits.items()}
        dataset = dataclasses.replace(stored, splits=splits)
    rng = np.random.default_rng(seed)
    rows, classes = dataset.splits["test"].labels.shape
    outputs = {"embedding": rng.normal(size=(rows, 6)).astype(np.float32)}
    summary = {
        "phase": phase,
        "dataset": dataset.name,
        "method": method,
        "seed": seed,
        "backbone": "mlp",
        "epochs": epochs,
        "label_names": list(dataset.label_names),
        "steps": 9,
        "seconds": 1.5,
        "samples_per_second": 96.0,
        "versions": {"mulsupcon_tf": "0.0"},
    }
    if fingerprint:
        summary["data_fingerprint"] = stored.fingerprint()
    flags = {"dataset": dataset_name, "data_dir": str(data_dir), "workdir": str(folder), "seed": str(seed)}
    flags |= {name: str(value) for name, value in options.items()}
    records = [{"epoch": epoch + 1, "loss": 3.0 - epoch, "learning_rate": 0.1} for epoch in range(epochs)]
    if phase == "pretrain":
        outputs["features"] = rng.normal(size=(rows, 5)).astype(np.float32)
        if method in DISTRIBUTION_METHODS:
            outputs["distribution"] = rng.dirichlet(np.ones(classes), rows).astype(np.float32)
            records = [record | {"leak": rng.random()} for record in records]
            if dataset.splits["test"].distributions is not None:
                summary["recovery"] = judge_recovery(dataset, outputs["distribution"], outputs["features"])
    else:
        splits = {name: rng.random(dataset.splits[name].labels.shape) for name in ("validation", "test")}
        outputs["probabilities"] = splits["test"]
        judged = {name: (dataset.splits[name].labels, scores) for name, scores in splits.items()}
        if not validated:
            del judged["validation"]
        frequencies = dataset.splits["train"].labels.mean(0)
        summary |= {"best_epoch": 2, "selected_by": selected_by or ("mAP" if validated else "last")}
        summary |= evaluate_splits(judged, threshold or ("validation" if validated else "paper"), frequencies)
        if validated:
            records = [record | {"val_loss": 2.0 / record["epoch"], "val_mAP": 0.5} for record in records]
    np.savez_compressed(folder / "test_outputs.npz", **outputs)
    (folder / "flags.txt").write_text("".join(f"--{name}={value}\n" for name, value in flags.items()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write_flags(run) -> None:
    """All settings of an experiment's run, as its binary writes them."""
    config = run.settings()
    written = {"pretrained": getattr(config, "pretrained", None)}
    lines = as_flag_lines(resolved_settings(config, RunData().stored(config), written))
    (run.directory / "flags.txt").write_text("".join(f"{line}\n" for line in lines))


def write_retrieval(folder, *, data_dir, seed=0, truth=True, representation="embedding", **asked) -> dict:
    """What the judge of a search engine finds for random embeddings of that seed, beside a run; its results."""
    splits = load_dataset("npz", data_dir=str(data_dir)).splits
    queries, gallery = (
        split if truth else dataclasses.replace(split, distributions=None)
        for split in (splits["test"], splits["train"])
    )
    rng = np.random.default_rng(seed)
    embeddings = [rng.normal(size=(len(split.labels), 6)).astype(np.float32) for split in (queries, gallery)]
    judged = {"split": "test", "gallery": "train", "neighbours": 10, "representation": representation, "truth": truth}
    judged |= asked | {"results": evaluate_embeddings(*embeddings, queries, gallery), "control": {}}
    retrieval_file(folder, representation).write_text(json.dumps(judged))
    return judged["results"]
