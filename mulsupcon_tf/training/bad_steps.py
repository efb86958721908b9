"""Saying which samples made training steps whose loss or gradient was not finite."""

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset
from mulsupcon_tf.input_pipeline.batches import training_rows
from mulsupcon_tf.utils.errors import InputError

SHOWN_SAMPLES = 5


def describe_batch(dataset: MultiLabelDataset, step: int, *, batch_size: int, seed: int) -> str:
    """Names the samples of a step's batch that are not finite themselves, or else the first few of all of them.

    Args:
        dataset: what is trained on.
        step: counted from 0.
        batch_size: B, over all workers.
        seed: of the order.
    """
    rows = training_rows(dataset, step, 1, batch_size=batch_size, seed=seed)
    inputs = dataset.splits["train"].inputs
    if isinstance(inputs, ImageFiles):
        return f"train images {_first(list(inputs.paths[rows]))}"
    finite = np.isfinite(inputs[rows]).reshape(len(rows), -1).all(axis=1)
    if finite.all():
        return f"train rows {_first(rows.tolist())}"
    return f"train rows {_first(rows[~finite].tolist())}, which are not finite"


def stop(number: int, first_step: int, samples: str) -> None:
    """Ends a run after too many bad steps.

    Args:
        number: of bad steps in a row.
        first_step: the first of them, counted from 0.
        samples: those of its batch; "" where they are not known.

    Raises:
        InputError: always.
    """
    raise InputError(
        "Loss and gradients must be finite in at least one of --max_bad_steps steps; look at the samples, lower --learning_rate, "
        f"raise --temperature or use another --mixed_precision. Received: {number} bad steps in a row from step "
        f"{first_step + 1} on{samples and f', whose batch has {samples}'}"
    )


def _first(names: list) -> str:
    return ", ".join(map(str, names[:SHOWN_SAMPLES])) + (", ..." if len(names) > SHOWN_SAMPLES else "")
