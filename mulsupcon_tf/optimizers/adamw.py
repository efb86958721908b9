"""AdamW whose decay is of kernels alone."""

import keras
import tensorflow as tf

from mulsupcon_tf.optimizers.kernel_decay import KernelDecay
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.private_apis import adam_moments


@keras.saving.register_keras_serializable(package="mulsupcon_tf")
class KernelAdamW(KernelDecay, keras.optimizers.Adam):
    """AdamW (arXiv 1711.05101) that decays kernels only, of rank 2 or more, and can give some variables a smaller learning rate.

    Args:
        learning_rate: number of at least 0, or schedule.
        weight_decay: decoupled, at least 0; a step takes `learning_rate * weight_decay` of each kernel away.
        amsgrad: False; it is there because `keras.optimizers.Adam` has it.
        **kwargs: as for `keras.optimizers.Adam`.

    Raises:
        InputError: `amsgrad` is asked for, or learning rate or decay is below 0 or not finite.
    """

    def __init__(self, learning_rate=1e-3, *, weight_decay: float = 0.0, amsgrad: bool = False, **kwargs):
        if amsgrad:
            raise InputError("KernelAdamW takes plain steps of Adam: amsgrad must be False. Received: amsgrad=True")
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)

    _powers_of_all: tuple[tf.Tensor, tf.Tensor] | None = None

    def apply(self, grads, trainable_variables=None):
        """One step of all variables; called by Keras inside the compiled train step.

        Args:
            grads: one a variable, or None for a variable that the loss does not depend on.
            trainable_variables: the variables; None: those that the optimizer was built for.
        """
        # Made for each variable anew they are five operations, which a GPU starts no sooner than large ones.
        self._powers_of_all = self._powers() if tf.distribute.get_strategy().num_replicas_in_sync == 1 else None
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


def _handle(variable: keras.Variable | tf.Variable) -> tf.Tensor:
    """Where TensorFlow keeps a variable; Keras gives an optimizer's step its own variables or TensorFlow's."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle
