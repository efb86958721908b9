"""What a model makes of a split, and the judgement of that."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.evaluation.neighbours import bank_rows, neighbour_mean_average_precision
from mulsupcon_tf.evaluation.results import evaluate_splits
from mulsupcon_tf.input_pipeline.batches import EVALUATION_BATCH, evaluation_batches
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.utils.graphs import compiled


def predict_split(
    model: MultiLabelClassifier, dataset: MultiLabelDataset, split: str, image_size: int | None
) -> dict[str, np.ndarray]:
    """Probabilities `[N, C]` and representations r `[N, R]` of a split, as "probabilities" and "embedding", float32."""
    outputs = compiled(model.embed_and_classify, reduce_retracing=True)
    batches = evaluation_batches(dataset.splits[split], batch_size=EVALUATION_BATCH, image_size=image_size)
    with naming_unreadable(lambda: dataset.splits[split].inputs):
        probabilities, embeddings = zip(*(outputs(inputs) for inputs, _ in batches), strict=True)
    return {"probabilities": np.concatenate(probabilities), "embedding": np.concatenate(embeddings)}


def judge(
    dataset: MultiLabelDataset,
    outputs: Mapping[str, Mapping[str, np.ndarray]],
    threshold: str,
    *,
    train_frequencies: np.ndarray,
) -> dict[str, Any]:
    """Results of predicted splits; `evaluate_splits` says which.

    Args:
        dataset: gives the labels.
        outputs: `predict_split` of each split, by its name.
        threshold: the value of `--threshold`.
        train_frequencies: `[C]`, of the labels in the samples trained on, which tell head from tail labels.
    """
    predicted = {name: (dataset.splits[name].labels, outputs[name]["probabilities"]) for name in outputs}
    return evaluate_splits(predicted, threshold, train_frequencies=train_frequencies)


def encode(
    model: ContrastivePretrainer,
    dataset: MultiLabelDataset,
    split: str,
    config: PretrainConfig,
    rows: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Features `[N, R]`, embeddings `[N, D]` and distributions `[N, C]` of a split, without augmentation.

    Args:
        model: its query encoder is used, in inference mode.
        dataset: the data.
        split: name of the split.
        config: resolved settings.
        rows: indices of the samples to encode; None for the whole split.
    """
    samples = dataset.splits[split]
    if rows is not None:
        samples = Split(samples.inputs[rows], samples.labels[rows])
    batches = evaluation_batches(samples, batch_size=config.batch_size, image_size=config.image_size)
    outputs = compiled(model, reduce_retracing=True)
    with naming_unreadable(lambda: samples.inputs):
        encoded = [outputs(inputs) for inputs, _ in batches]
    return {name: np.concatenate([each[name] for each in encoded]) for name in encoded[0]}


def judge_by_neighbours(
    model: ContrastivePretrainer, dataset: MultiLabelDataset, config: PretrainConfig
) -> float | None:
    """Validation mAP when labels are predicted from the nearest training samples; None without a labelled sample."""
    rows = bank_rows(len(dataset.splits["train"]))
    bank = encode(model, dataset, "train", config, rows)["features"]
    features = encode(model, dataset, "validation", config)["features"]
    return neighbour_mean_average_precision(
        features, dataset.splits["validation"].labels, bank, dataset.splits["train"].labels[rows]
    )
