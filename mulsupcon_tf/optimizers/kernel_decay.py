"""Weight decay of kernels alone, and smaller learning rates of some variables: what the optimizers here share."""

from collections.abc import Iterable

import keras
import tensorflow as tf

from mulsupcon_tf.utils.private_apis import SumOverReplicas, is_decayed, variable_key
from mulsupcon_tf.utils.tensors import require_not_negative


class KernelDecay(SumOverReplicas):
    """What the optimizers here share: they decay kernels only and can give some variables a smaller learning rate."""

    def __init__(self, learning_rate=1e-3, *, weight_decay: float = 0.0, **kwargs):
        require_not_negative(weight_decay=weight_decay)
        if isinstance(learning_rate, int | float):
            require_not_negative(learning_rate=learning_rate)
        super().__init__(learning_rate, **kwargs)
        self.kernel_decay = weight_decay  # Keras would apply an attribute of its own name to every variable
        self._scales: dict[str, float] = {}

    def scale_learning_rate(self, variables: Iterable[keras.Variable], scale: float) -> None:
        """Multiplies the learning rate, and with it the decay, of `variables` by `scale` from now on.

        Args:
            variables: those of the model that the optimizer trains.
            scale: replaces one that was set before.
        """
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
