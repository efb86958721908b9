"""Schedules of the learning rate, of the key momentum, and of what is switched on at a step."""

import math

import keras
import tensorflow as tf

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import require_at_least, require_not_negative, require_positive, require_within


def build_schedule(config: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate that `--schedule` and its neighbours describe.

    restarts is SGDR (arXiv 1608.03983): half cosines from the peak, each `--restart_factor` times as long as the last.

    Args:
        config: resolved settings.
        steps_per_epoch: steps in one epoch.

    Returns:
        A schedule from the step, counted from 0, to the learning rate.

    Raises:
        InputError: a number is out of range.
    """
    if config.schedule == "restarts":
        return keras.optimizers.schedules.CosineDecayRestarts(
            config.learning_rate,
            max(1, round(config.restart_epochs * steps_per_epoch)),
            t_mul=config.restart_factor,
            alpha=config.final_learning_rate_scale,
        )
    total = config.epochs * steps_per_epoch
    return warmup_cosine(
        config.learning_rate,
        total_steps=total,
        warmup_steps=min(round(config.warmup_epochs * steps_per_epoch), total - 1),  # of few steps all may round up
        final_scale=config.final_learning_rate_scale,
    )


def warmup_cosine(
    peak: float, *, total_steps: int, warmup_steps: int, final_scale: float = 0.01
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear rise from 0 to a peak, then a half cosine down, as in SGDR without restarts (arXiv 1608.03983).

    Args:
        peak: the highest learning rate, above 0.
        total_steps: the step, counted from 0, from which on the learning rate stays at its end; at least 1.
        warmup_steps: steps of the rise, at least 0 and below `total_steps`.
        final_scale: share of the peak that is left at the end, from 0 to 1.

    Returns:
        A schedule from the step to the learning rate, scalar float32.

    Raises:
        InputError: a number is out of range.
    """
    require_positive(peak=peak)
    require_at_least(1, total_steps=total_steps)
    require_not_negative(warmup_steps=warmup_steps)
    require_within(0, 1, final_scale=final_scale)
    if warmup_steps >= total_steps:
        raise InputError(f"warmup_steps must be below total_steps={total_steps}. Received: warmup_steps={warmup_steps}")
    if warmup_steps == 0:
        return keras.optimizers.schedules.CosineDecay(peak, total_steps, alpha=final_scale)
    return WarmupCosine(0.0, total_steps - warmup_steps, final_scale, warmup_target=peak, warmup_steps=warmup_steps)


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class WarmupCosine(keras.optimizers.schedules.CosineDecay):
    """`keras.optimizers.schedules.CosineDecay` with a warm-up, the same numbers without a condition.

    For a condition the host must know the step, and waits until the device has come so far: once in each training step.
    """

    def __call__(self, step):
        """The learning rate at `step`, scalar float32."""
        start, peak, warmup = self.initial_learning_rate, self.warmup_target, self.warmup_steps
        step = tf.minimum(tf.cast(step, tf.float32), float(self.decay_steps + warmup))
        rising = (peak - start) * (step / warmup) + start
        cosine = 0.5 * (1.0 + tf.cos(math.pi * ((step - warmup) / self.decay_steps)))
        return tf.where(step < warmup, rising, peak * ((1.0 - self.alpha) * cosine + self.alpha))


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class MomentumRamp(keras.optimizers.schedules.LearningRateSchedule):
    """Schedule of the key momentum, which starts low: min(m, (1 + t) / (10 + t)) at step t.

    It is the rule of `tf.train.ExponentialMovingAverage`, where that is given the number of updates.

    Used as Keras' schedules of the learning rate are: `ContrastivePretrainer(..., momentum=MomentumRamp(0.999))`.

    At m = 0.999 the key encoder lags about a thousand steps; from random weights it would then hold random features for
    as long. The ramp lets it follow closely while the query encoder moves fast, and reaches 0.999 at step 8990.

    Args:
        momentum: m, from 0 to 1.

    Raises:
        InputError: m lies outside of [0, 1].
    """

    def __init__(self, momentum: float):
        require_within(0, 1, momentum=momentum)
        self.momentum = momentum

    def __call__(self, step):
        """The momentum at a step.

        Args:
            step: t, a scalar of any dtype, counted from 0.

        Returns:
            Scalar float32.
        """
        step = tf.cast(step, tf.float32)
        return tf.minimum(tf.cast(self.momentum, tf.float32), (1.0 + step) / (10.0 + step))

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class StepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """0 before step `start`, 1 from there on: switches a loss on after a warm-up."""

    def __init__(self, start: int):
        self.start = start

    def __call__(self, step):
        """0 or 1, scalar float32."""
        return tf.cast(tf.cast(step, tf.int64) >= self.start, tf.float32)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return {"start": self.start}
