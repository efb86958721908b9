"""What the model of a finished run of either phase makes of a split: written to a file, or judged as a search engine."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mulsupcon_tf.commands.evaluating import dataset_of_run, load_classifier, predict_split
from mulsupcon_tf.commands.pretraining import build_pretrainer, encode
from mulsupcon_tf.config.fields import from_flag_values, require
from mulsupcon_tf.config.flags import EmbedConfig, EvaluateConfig, PretrainConfig
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset
from mulsupcon_tf.datasets.splitting import with_share_of_train
from mulsupcon_tf.evaluation.retrieval import judge_retrieval
from mulsupcon_tf.input_pipeline.sampling_order import steps_per_epoch
from mulsupcon_tf.models.backbone_weights import read_standardisation
from mulsupcon_tf.training.checkpoints import CheckpointStore, assign_all
from mulsupcon_tf.training.loop import prepare_process
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError

CONTROL_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A finished run with its data and its model.

    Attributes:
        phase: "pretrain" or "finetune".
        data_dir: folder of the data, or None.
        dataset: as the run saw it, without images that it left out.
        changed_data: what is different from the data that the run saw, in words; "" if nothing.
        outputs: from the name of a split to what the model gives for it, by name, N rows each: "features" `[N, R]`; of a
            pretraining also "embedding" `[N, D]` and, where the method recovers, "distribution" `[N, C]`; of a fine-tuning
            also "probabilities" `[N, C]`.
    """

    phase: str
    data_dir: str | None
    dataset: MultiLabelDataset
    changed_data: str
    outputs: Callable[[str], dict[str, np.ndarray]]


def open_run(workdir: str, data_dir: str | None, *, allow_changed_data: bool = False) -> FinishedRun:
    """Loads data and model of a finished run: of a pretraining the last checkpoint, of a fine-tuning `model.keras`.

    Args:
        workdir: the run directory.
        data_dir: folder of the data, where it is no longer that of the run.
        allow_changed_data: whether the data may be others than those that the run saw.

    Raises:
        InputError: the run has not finished, its model is missing or damaged, or the data are not to be had.
    """
    run = RunDirectory(workdir)
    phase = run.read_summary()["phase"]
    flags = read_flags(run.flags_file)
    data_dir = data_dir or flags.get("data_dir")
    dataset, changed = dataset_of_run(run, flags, data_dir, allow_changed_data=allow_changed_data)
    return FinishedRun(phase, data_dir, dataset, changed, _OPENERS[phase](run, flags, dataset))


def _open_pretraining(run: RunDirectory, flags: dict[str, str], dataset: MultiLabelDataset):
    config = from_flag_values(PretrainConfig, flags)
    prepare_process(config)
    # Vectors are standardised by statistics that are constants and not in the checkpoint. A version that did not store
    # them with the encoder took those of these samples.
    trained_on = with_share_of_train(dataset, config.label_fraction, config.seed)
    stored = None
    if dataset.kind == "vector":
        with run.whole_encoder_weights("--workdir") as path:
            stored = read_standardisation(path)
    steps = steps_per_epoch(trained_on.splits["train"], config.batch_size)
    model = build_pretrainer(config, trained_on, steps, stored)
    loaded = CheckpointStore(run.checkpoints).load_latest()
    if loaded is None:
        raise InputError(
            "The projection and the distribution head of a pretraining are in its last checkpoint. "
            f"Received: {run.path}, which has none"
        )
    model.optimizer.build(model.trainable_variables)
    assign_all(model.variables, loaded[0]["model"], "model")

    def outputs(split: str) -> dict[str, np.ndarray]:
        encoded = encode(model, dataset, split, config)
        if not model.recovers:
            del encoded["distribution"]  # of a head that was never trained
        return encoded

    return outputs


def _open_finetuning(run: RunDirectory, flags: dict[str, str], dataset: MultiLabelDataset):
    model = load_classifier(run)
    image_size = int(flags["image_size"]) if "image_size" in flags else None

    def outputs(split: str) -> dict[str, np.ndarray]:
        predicted = predict_split(model, dataset, split, image_size)
        return {"features": predicted["embedding"], "probabilities": predicted["probabilities"]}

    return outputs


_OPENERS = {"pretrain": _open_pretraining, "finetune": _open_finetuning}


def export_embeddings(config: EmbedConfig) -> dict[str, np.ndarray]:
    """Writes what a run's model makes of a split, with the labels beside it, to an NPZ file, whole or not at all.

    Returns:
        The arrays of the file, N rows each: those of `FinishedRun.outputs`; "labels" `[N, C]` uint8; where the truth is known
        "true_distribution" `[N, C]`; for image files "files" `[N]`, below the data's folder where they lie there. And
        "label_names" `[C]`, and "changed_data", a text, where the data are not those that the run saw. Text is stored without
        pickle.

    Raises:
        InputError: the run, the data or a setting is wrong.
    """
    require(config, "workdir", "output")
    output = pathlib.Path(config.output)
    if output.suffix != ".npz":
        raise InputError(f"--output must be a file that ends in .npz. Received: {output}")
    run = open_run(config.workdir, config.data_dir, allow_changed_data=config.allow_changed_data)
    split = run.dataset.splits[config.split]
    arrays = run.outputs(config.split) | {"labels": split.labels, "label_names": np.array(run.dataset.label_names)}
    if run.changed_data:
        arrays["changed_data"] = np.array(run.changed_data)
    if split.distributions is not None:
        arrays["true_distribution"] = split.distributions
    if isinstance(split.inputs, ImageFiles):
        folder = run.data_dir
        inside = [folder is not None and pathlib.Path(path).is_relative_to(folder) for path in split.inputs.paths]
        arrays["files"] = np.array(
            [
                os.path.relpath(path, folder) if here else path
                for path, here in zip(split.inputs.paths, inside, strict=True)
            ]
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file.replacing(output) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return arrays


def evaluate_retrieval(config: EvaluateConfig) -> dict[str, Any]:
    """Judges the embedding of a finished run: searches the gallery for the nearest samples of each query.

    Returns:
        What is written to `--output`, by default `WORKDIR/retrieval.json`: {"split", "gallery", "neighbours",
        "representation", "truth": whether true distributions were known, "results": `judge_retrieval` of the run, and
        "control": that of random embeddings, which tells what the data give away for nothing}, and "changed_data" where the
        data are not those that the run saw.

    Raises:
        InputError: the run, the data or a setting is wrong.
    """
    require(config, "workdir")
    run = open_run(config.workdir, config.data_dir, allow_changed_data=config.allow_changed_data)
    representation = config.representation or ("embedding" if run.phase == "pretrain" else "features")
    if representation == "embedding" and run.phase != "pretrain":
        raise InputError(
            f"--representation=embedding is the projection of a pretraining. Received: {config.workdir}, a {run.phase} run"
        )
    names = (config.split, config.gallery)
    encoded = {name: run.outputs(name)[representation] for name in dict.fromkeys(names)}
    queries, gallery = (run.dataset.splits[name] for name in names)
    settings: dict[str, Any] = {"num_neighbours": config.neighbours, "same": config.split == config.gallery}
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=(len(rows), CONTROL_WIDTH)).astype(np.float32) for name, rows in encoded.items()}
    judged = {
        "split": config.split,
        "gallery": config.gallery,
        "neighbours": config.neighbours,
        "representation": representation,
        "truth": queries.distributions is not None and gallery.distributions is not None,
    }
    if run.changed_data:
        judged["changed_data"] = run.changed_data
    for kind, rows in (("results", encoded), ("control", noise)):
        judged[kind] = judge_retrieval(rows[config.split], rows[config.gallery], queries, gallery, **settings)
    output = pathlib.Path(config.output) if config.output else RunDirectory(config.workdir).retrieval
    atomic_file.write_text(output, json.dumps(judged, indent=2) + "\n")
    return judged


def format_retrieval_table(judged: dict[str, Any]) -> str:
    """The measures in percent, one a line, for the terminal.

    Args:
        judged: as `evaluate_retrieval` returns it.

    Returns:
        Lines without a trailing newline.
    """
    k = judged["neighbours"]
    titles = {
        "mAP": f"mAP@{k} (shared labels)",
        "ndcg_labels": f"nDCG@{k} of labels",
        "dominant": f"dominant@{k}",
        "ndcg_distributions": f"nDCG@{k} of true distributions",
    }
    lines = [f"{'retrieval (%)':<32}{'run':>7}{'random':>9}{'queries':>9}"]
    for name, title in titles.items():
        result, control = judged["results"][name], judged["control"][name]
        cells = [f"{100 * each['value']:.1f}" if each["value"] is not None else "-" for each in (result, control)]
        lines.append(f"{title:<32}{cells[0]:>7}{cells[1]:>9}{result['queries']:>9}")
    lines.append(f"queries: {judged['split']}, gallery: {judged['gallery']}, by cosine of {judged['representation']}")
    if not judged["truth"]:
        lines.append(f"true distributions are not known: dominant@{k} is over the samples that have one label")
    if "changed_data" in judged:
        lines.append(f"the data have changed since the run: {judged['changed_data']}")
    return "\n".join(lines)
