"""Puts the nearest training samples beside a trained classifier."""

import logging

import numpy as np

from mulsupcon_tf.commands.outputs import predict_split
from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.evaluation.neighbour_mixture import Mixture, choose_mixture
from mulsupcon_tf.evaluation.neighbours import bank_rows
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.models.neighbour_classifier import NeighbourClassifier, standardised


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
