"""What a phase feeds the training loop: its batches, and what is known of the samples that they are made of."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset
from mulsupcon_tf.input_pipeline.batches import training_batches
from mulsupcon_tf.input_pipeline.image_files import naming_unreadable
from mulsupcon_tf.input_pipeline.sampling_order import describe_batch, steps_per_epoch, training_inputs


@dataclasses.dataclass(frozen=True)
class Feed:
    """The batches of a run. Steps are counted from 0.

    Attributes:
        batches_from: from a step to the endless batches that start there.
        steps_per_epoch: steps in one epoch.
        inputs_of: from a step and a number of steps to the training inputs that they read, so that a broken image file
            among them can be named.
        describe_batch: from a step to what is said of the samples of its batch when it is a bad one.
    """

    batches_from: Callable[[int], tf.data.Dataset]
    steps_per_epoch: int
    inputs_of: Callable[[int, int], np.ndarray | ImageFiles | None] = lambda first_step, num_steps: None
    describe_batch: Callable[[int], str] = lambda step: ""

    def batch(self, step: int) -> Any:
        """The batch of a step.

        Raises:
            InputError: an image file of it cannot be read.
        """
        with naming_unreadable(functools.partial(self.inputs_of, step, 1)):
            return next(iter(self.batches_from(step)))


def training_feed(
    dataset: MultiLabelDataset, config: TrainingConfig, *, num_views: int, shard: tuple[int, int] = (0, 1)
) -> Feed:
    """The batches of a dataset's training split, as a config wants them.

    Args:
        dataset: what is trained on.
        config: resolved settings.
        num_views: as for `training_batches`.
        shard: as for `training_batches`.

    Raises:
        InputError: the split is smaller than one batch.
    """
    order = {"batch_size": config.batch_size, "seed": config.seed}

    def batches_from(step: int) -> tf.data.Dataset:
        return training_batches(
            dataset,
            num_views=num_views,
            augmentation=config.augmentation,
            image_size=config.image_size,
            mask_rate=config.mask_rate,
            first_step=step,
            shard=shard,
            **order,
        )

    return Feed(
        batches_from,
        steps_per_epoch(dataset.splits["train"], config.batch_size),
        functools.partial(training_inputs, dataset, **order),
        functools.partial(describe_batch, dataset, **order),
    )
