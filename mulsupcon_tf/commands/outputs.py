"""What a model makes of a split, the judgement of that, and what is put on a trained classifier by it."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.evaluation.calibration import Calibration, calibration_error, fit_calibration, reliability
from mulsupcon_tf.evaluation.neighbour_mixture import Mixture, choose_mixture
from mulsupcon_tf.evaluation.neighbours import bank_rows, neighbour_mean_average_precision
from mulsupcon_tf.evaluation.results import evaluate_splits
from mulsupcon_tf.input_pipeline.batches import EVALUATION_BATCH, evaluation_batches
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.neighbour_classifier import NeighbourClassifier, standardised
from mulsupcon_tf.models.pretrainer import ContrastivePretrainer
from mulsupcon_tf.serving.saved_model import OUTPUT_NAMES
from mulsupcon_tf.utils.graphs import compiled_for


def predict_split(model: MultiLabelClassifier, split: Split, image_size: int | None) -> dict[str, np.ndarray]:
    """Probabilities `[N, C]` and representations r `[N, R]` of a split, as "probabilities" and "embedding", float32."""
    calibration = (model.logit_temperature, model.logit_offset)
    return _of_all(compiled_for(model, _predict, calibration), split, EVALUATION_BATCH, image_size)


def _predict(model: MultiLabelClassifier, inputs: Any) -> dict[str, Any]:
    return dict(zip(OUTPUT_NAMES, model.embed_and_classify(inputs), strict=True))


def calibrate(
    model: MultiLabelClassifier, validation: Split, image_size: int | None, *, with_offset: bool
) -> Calibration:
    """Sets what makes the model's probabilities of its logits by what fits a split best; the order stays as it is.

    Args:
        model: not calibrated yet.
        validation: on which temperature and offset are chosen.
        image_size: side of the images.
        with_offset: see `fit_calibration`.
    """
    log_odds = _of_all(compiled_for(model, _log_odds), validation, EVALUATION_BATCH, image_size)["log_odds"]
    calibration = fit_calibration(validation.labels, log_odds, with_offset=with_offset)
    model.calibrate(*calibration)
    errors = [
        100 * calibration_error(reliability(validation.labels, each.of(log_odds)))
        for each in (calibration, Calibration())
    ]
    logging.getLogger("mulsupcon_tf").info(
        "calibrated on validation: temperature %.3g, offset %.3g; calibration error %.1f %%, before %.1f %%",
        *calibration,
        *errors,
    )
    return calibration


def _log_odds(model: MultiLabelClassifier, inputs: Any) -> dict[str, Any]:
    return {"log_odds": model.log_odds(inputs)[0]}


def beside_neighbours(
    model: MultiLabelClassifier,
    train: Split,
    validation: Split,
    image_size: int | None,
) -> tuple[MultiLabelClassifier, Mixture]:
    """The classifier with training samples as a gallery, and how these are mixed in; itself where they do not help.

    Args:
        model: in float32.
        train: what was trained on; of more than 20,000 samples a fixed draw is the gallery.
        validation: on which the mixture is chosen.
        image_size: side of the images.
    """
    rows = bank_rows(len(train))
    gallery = train[rows]
    features = predict_split(model, gallery, image_size)["embedding"]
    predicted = predict_split(model, validation, image_size)
    vectors = len(model.backbone.input_shape) == 2
    spaces = [(predicted["embedding"], features)]
    if vectors:
        seen, known = (np.asarray(standardised(model.backbone, split.inputs)) for split in (validation, gallery))
        spaces.append((seen, known))
    mixture = choose_mixture(validation.labels, predicted["probabilities"], spaces, gallery.labels)
    logger = logging.getLogger("mulsupcon_tf")
    if not mixture.share:
        logger.info("neighbours do not help on validation and are left out")
        return model, mixture
    logger.info(
        "mixed in: the %d nearest of %d training samples, share %g, temperature %g, the best on validation",
        mixture.num_neighbours,
        len(gallery),
        mixture.share,
        mixture.temperature,
    )
    mixed = NeighbourClassifier(
        model.backbone,
        model.num_labels,
        gallery_size=len(gallery),
        linear_probe=model.linear_probe,
        name=model.name,
        **mixture._asdict(),
    )
    mixed.head.set_weights(model.head.get_weights())
    mixed.fill_gallery(np.asarray(gallery.inputs) if vectors else None, features, gallery.labels)
    return mixed, mixture


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
        samples = samples[rows]
    function, file_shape = compiled_for(model, _encode), model.backbone.input_shape[1:]
    return _of_all(function, samples, config.batch_size, config.image_size, file_shape)


def _encode(model: ContrastivePretrainer, inputs: Any) -> dict[str, Any]:
    return model(inputs)


def _of_all(
    function: tf.types.experimental.PolymorphicFunction,
    samples: Split,
    batch_size: int,
    image_size: int | None,
    file_shape: tuple[int, int, int] | None = None,
) -> dict[str, np.ndarray]:
    """What a function of inputs `[B, ...]` gives for all samples, by name, N rows each."""
    batches = evaluation_batches(samples, batch_size=batch_size, image_size=image_size, file_shape=file_shape)
    run = function.get_concrete_function(batches.element_spec[0])  # of any number of samples: one graph for all batches
    with naming_unreadable(lambda: samples.inputs):
        given = [run(inputs) for inputs, _ in batches]
    return {name: np.concatenate([each[name] for each in given]) for name in given[0]}


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
