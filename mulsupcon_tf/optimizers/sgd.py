"""Gradient descent with momentum and LARS, whose decay is of kernels alone."""

import keras
import tensorflow as tf

from mulsupcon_tf.optimizers.kernel_decay import KernelDecay
from mulsupcon_tf.utils.tensors import require_positive, require_within


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class KernelSGD(KernelDecay, keras.optimizers.SGD):
    """Gradient descent with momentum, as MoCo (arXiv 1911.05722) is trained; kernels only are decayed.

    u = g + λ w for a kernel, g for other variables;  v <- m v − η u;  w <- w + v.

    Args:
        learning_rate: η, number of at least 0, or schedule.
        weight_decay: λ >= 0, as part of the gradient, so that values from the literature mean here what they mean there.
        momentum: m, from 0 to 1.
        **kwargs: as for `keras.optimizers.SGD`.

    Raises:
        InputError: a number is out of range.
    """

    def __init__(self, learning_rate=0.03, *, weight_decay: float = 0.0, momentum: float = 0.9, **kwargs):
        require_within(0, 1, momentum=momentum)
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
        learning_rate: η, number of at least 0, or schedule.
        weight_decay: λ >= 0, as part of the gradient.
        momentum: m, from 0 to 1.
        trust_coefficient: c > 0.
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
        require_positive(trust_coefficient=trust_coefficient)
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
