"""The losses of the second phase by the names that `--loss` knows, and their weights.

References:
    [1] King and Zeng, Logistic Regression in Rare Events Data, Political Analysis 9 (2001).
"""

import functools
from collections.abc import Callable

import numpy as np

from mulsupcon_tf.losses.label_by_label import AsymmetricLoss, LossOfLogits, MultiLabelCrossentropy
from mulsupcon_tf.losses.positives_against_negatives import TwoWayLoss, ZLPRLoss
from mulsupcon_tf.utils.choices import CLASS_WEIGHTS, LOSSES, WEIGHTED_LOSSES
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import require_choice


def balanced_weights(labels: np.ndarray) -> list[list[float]]:
    """Weights by which the presence and the absence of a label count alike in the whole of training [1].

    N / 2n for a value that n of N samples have; 1 for both values of a label that all samples or none carry.

    Args:
        labels: `[N, C]`: 0, 1, or NaN where it is unknown, which counts for neither.

    Returns:
        `[2][C]`: the weights of a label where it is absent, and where it is present.
    """
    present = (labels > 0).sum(axis=0)
    counts = np.stack([(labels == 0).sum(axis=0), present])
    weights = counts.sum(axis=0) / (2.0 * np.maximum(counts, 1))
    return np.where((counts > 0).all(axis=0), weights, 1.0).tolist()


def build_loss(name: str, *, class_weights: str = CLASS_WEIGHTS[0], labels: np.ndarray | None = None) -> LossOfLogits:
    """Makes the loss that `--loss` and `--class_weights` name.

    Args:
        name: "bce", "asl", "two_way" or "zlpr".
        class_weights: "none", or "balanced" for bce and asl.
        labels: `[N, C]` of the training samples, 0, 1 or NaN, of which balanced weights are made.

    Returns:
        The loss of logits `[B, C]`, with its default settings.

    Raises:
        InputError: a name is unknown, or balanced weights are asked for of a loss that takes none or without labels.
    """
    require_choice(tuple(LOSSES), loss=name)
    require_choice(CLASS_WEIGHTS, class_weights=class_weights)
    builders: dict[str, Callable[..., LossOfLogits]] = {
        "bce": MultiLabelCrossentropy,
        "asl": AsymmetricLoss,
        "two_way": TwoWayLoss,
        "zlpr": ZLPRLoss,
    }
    build = builders[name]
    if class_weights == "balanced":
        if name not in WEIGHTED_LOSSES:
            raise InputError(
                f"class_weights=balanced belongs to {' and '.join(WEIGHTED_LOSSES)}. Received: loss={name}"
            )
        if labels is None:
            raise InputError("class_weights=balanced needs the labels of the training samples. Received: none")
        build = functools.partial(build, weights=balanced_weights(labels))
    return build()
