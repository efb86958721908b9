"""Learning rate schedules and the optimizers of both phases."""

import math
from collections.abc import Iterable

import keras
import tensorflow as tf

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.models.replicas import num_replicas
from mulsupcon_tf.utils import tensors
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.private_apis import SumOverReplicas, adam_moments, is_decayed, variable_key


def build_schedule(config: TrainingConfig, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate that `--schedule` and its neighbours describe.

    restarts is SGDR (arXiv 1608.03983): half cosines from the peak, each `--restart_factor` times as long as the last.

    Args:
        config: resolved settings.
        steps_per_epoch: steps in one epoch.
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
    """Linear rise from 0 to `peak` over `warmup_steps`, then a half cosine down to `final_scale * peak` at `total_steps`.

    Raises:
        InputError: a number is out of range.
    """
    tensors.require_positive(peak=peak)
    tensors.require_at_least(1, total_steps=total_steps)
    tensors.require_not_negative(warmup_steps=warmup_steps)
    tensors.require_within(0, 1, final_scale=final_scale)
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

    Used as Keras' schedules of the learning rate are: `ContrastivePretrainer(..., momentum=MomentumRamp(0.999))`.

    At m = 0.999 the key encoder lags about a thousand steps; from random weights it would then hold random features for
    as long. The ramp lets it follow closely while the query encoder moves fast, and reaches 0.999 at step 8990.

    Args:
        momentum: m.

    Raises:
        InputError: m lies outside of [0, 1].
    """

    def __init__(self, momentum: float):
        tensors.require_within(0, 1, momentum=momentum)
        self.momentum = momentum

    def __call__(self, step):
        """The momentum at `step`, scalar float32."""
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


class _KernelDecay(SumOverReplicas):
    """What the optimizers here share: they decay kernels only and can give some variables a smaller learning rate."""

    def __init__(self, learning_rate=1e-3, *, weight_decay: float = 0.0, **kwargs):
        tensors.require_not_negative(weight_decay=weight_decay)
        if isinstance(learning_rate, int | float):
            tensors.require_not_negative(learning_rate=learning_rate)
        super().__init__(learning_rate, **kwargs)
        self.kernel_decay = weight_decay  # Keras would apply an attribute of its own name to every variable
        self._scales: dict[str, float] = {}

    def scale_learning_rate(self, variables: Iterable[keras.Variable], scale: float) -> None:
        """Multiplies the learning rate, and with it the decay, of `variables` by `scale` from now on."""
        self._scales |= {variable_key(self, variable): scale for variable in variables}

    def scaled(self, learning_rate, variable):
        """The learning rate of `variable`, in its dtype."""
        return tf.cast(learning_rate, variable.dtype) * self._scales.get(variable_key(self, variable), 1.0)

    @staticmethod
    def is_kernel(variable) -> bool:
        """Whether it is one, depthwise ones too: biases, scales and offsets of normalisation and layer scales have rank 0 or 1."""
        return len(variable.shape) > 1

    def decay_of(self, variable) -> float:
        """The decay of `variable`: 0 of all but kernels, and of those that `exclude_from_weight_decay` names."""
        return self.kernel_decay if self.is_kernel(variable) and is_decayed(self, variable) else 0.0

    def get_config(self) -> dict:
        """Arguments of the constructor; learning rate scales belong to a model and are set anew by it."""
        return super().get_config() | {"weight_decay": self.kernel_decay}


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class KernelAdamW(_KernelDecay, keras.optimizers.Adam):
    """AdamW (arXiv 1711.05101) that decays kernels only, of rank 2 or more, and can give some variables a smaller learning rate.

    Args:
        learning_rate: number or schedule.
        weight_decay: decoupled; a step takes `learning_rate * weight_decay` of each kernel away.
        **kwargs: as for `keras.optimizers.Adam`, but for `amsgrad`, which must be False.

    Raises:
        InputError: `amsgrad` is asked for, or a number is out of range.
    """

    def __init__(self, learning_rate=1e-3, *, weight_decay: float = 0.0, amsgrad: bool = False, **kwargs):
        if amsgrad:
            raise InputError("KernelAdamW takes plain steps of Adam: amsgrad must be False. Received: amsgrad=True")
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)

    _powers_of_all: tuple[tf.Tensor, tf.Tensor] | None = None

    def apply(self, grads, trainable_variables=None):
        """One step of all variables; called by Keras inside the compiled train step."""
        # Made for each variable anew they are five operations, which a GPU starts no sooner than large ones.
        self._powers_of_all = self._powers() if num_replicas() == 1 else None
        try:
            super().apply(grads, trainable_variables)
        finally:
            self._powers_of_all = None

    def _powers(self) -> tuple[tf.Tensor, tf.Tensor]:
        """β₁ and β₂ to the power of the step, counted from 1."""
        time = tf.cast(self.iterations + 1, "float32")
        return self.beta_1**time, self.beta_2**time

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable; called by Keras inside the compiled train step."""
        learning_rate = self.scaled(learning_rate, variable)
        if decay := self.decay_of(variable):
            self.assign_sub(variable, variable * (learning_rate * decay))
        momentum, velocity = adam_moments(self, variable)
        power_1, power_2 = (tf.cast(power, variable.dtype) for power in self._powers_of_all or self._powers())
        beta_1, beta_2 = (tf.constant(beta, variable.dtype) for beta in (self.beta_1, self.beta_2))
        # One pass over the memory; the operations of Keras's own step take fifteen, a seventh of a step of a small model.
        tf.raw_ops.ResourceApplyAdam(
            var=_handle(variable),
            m=_handle(momentum),
            v=_handle(velocity),
            beta1_power=power_1,
            beta2_power=power_2,
            lr=learning_rate,
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon, variable.dtype),
            grad=tf.cast(gradient, variable.dtype),
        )


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class KernelSGD(_KernelDecay, keras.optimizers.SGD):
    """Gradient descent with momentum, as MoCo (arXiv 1911.05722) is trained; kernels only are decayed.

    u = g + λ w for a kernel, g for other variables;  v <- m v − η u;  w <- w + v.

    Args:
        learning_rate: η, number or schedule.
        weight_decay: λ, as part of the gradient, so that values from the literature mean here what they mean there.
        momentum: m.
        **kwargs: as for `keras.optimizers.SGD`.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, learning_rate=0.03, *, weight_decay: float = 0.0, momentum: float = 0.9, **kwargs):
        tensors.require_within(0, 1, momentum=momentum)
        super().__init__(learning_rate, weight_decay=weight_decay, momentum=momentum, **kwargs)

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable; called by Keras inside the compiled train step."""
        if decay := self.decay_of(variable):
            gradient = tf.cast(gradient, variable.dtype) + decay * variable
        super().update_step(gradient, variable, self.scaled(learning_rate, variable))


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class LARS(KernelSGD):
    """Layer-wise adaptive rates (arXiv 1708.03888, algorithm 1), for batches of thousands.

    The learning rate of a kernel is η c |w| / (|g| + λ |w|), c the trust coefficient; where w or g is 0 it is η. Other
    variables take a plain step of `KernelSGD`, as in SimCLR and BYOL.

    Args:
        learning_rate: η, number or schedule.
        weight_decay: λ, as part of the gradient.
        momentum: m.
        trust_coefficient: c.
        **kwargs: as for `keras.optimizers.SGD`.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(
        self,
        learning_rate=0.3,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust_coefficient: float = 1e-3,
        **kwargs,
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, momentum=momentum, **kwargs)
        tensors.require_positive(trust_coefficient=trust_coefficient)
        self.trust_coefficient = trust_coefficient

    def update_step(self, gradient, variable, learning_rate):
        """One step of one variable; called by Keras inside the compiled train step."""
        if self.is_kernel(variable):
            size, slope = tf.norm(tf.convert_to_tensor(variable)), tf.norm(tf.cast(gradient, variable.dtype))
            trust = self.trust_coefficient * size / (slope + self.decay_of(variable) * size)
            learning_rate = tf.cast(learning_rate, variable.dtype) * tf.where((size > 0) & (slope > 0), trust, 1.0)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict:
        """Arguments of the constructor."""
        return super().get_config() | {"trust_coefficient": self.trust_coefficient}


_OPTIMIZERS = {"adamw": KernelAdamW, "sgd": KernelSGD, "lars": LARS}


def build_optimizer(
    name: str, learning_rate: keras.optimizers.schedules.LearningRateSchedule, weight_decay: float
) -> KernelAdamW | KernelSGD:
    """The optimizer that `--optimizer` names: adamw, sgd or lars.

    Raises:
        InputError: it has another name, or a number is out of range.
    """
    tensors.require_choice(tuple(_OPTIMIZERS), optimizer=name)
    return _OPTIMIZERS[name](learning_rate, weight_decay=weight_decay)


def _handle(variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Where TensorFlow keeps a variable; Keras gives an optimizer's step its own variables or TensorFlow's."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
