"""The optimizers by the names that `--optimizer` knows."""

import keras

from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.optimizers.sgd import LARS, KernelSGD
from mulsupcon_tf.utils.tensors import require_choice

_OPTIMIZERS = {"adamw": KernelAdamW, "sgd": KernelSGD, "lars": LARS}


def build_optimizer(
    name: str, learning_rate: keras.optimizers.schedules.LearningRateSchedule, weight_decay: float
) -> KernelAdamW | KernelSGD:
    """The optimizer that `--optimizer` names: adamw, sgd or lars.

    Raises:
        InputError: it has another name, or a number is out of range.
    """
    require_choice(tuple(_OPTIMIZERS), optimizer=name)
    return _OPTIMIZERS[name](learning_rate, weight_decay=weight_decay)
