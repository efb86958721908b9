"""The optimizers by the names that `--optimizer` knows."""

import keras

from mulsupcon_tf.optimizers.adamw import KernelAdamW
from mulsupcon_tf.optimizers.sgd import LARS, KernelSGD
from mulsupcon_tf.utils.tensors import require_choice

_OPTIMIZERS = {"adamw": KernelAdamW, "sgd": KernelSGD, "lars": LARS}


def build_optimizer(
    name: str,
    learning_rate: keras.optimizers.schedules.LearningRateSchedule,
    weight_decay: float,
    *,
    ema_momentum: float = 0.0,
) -> KernelAdamW | KernelSGD:
    """Makes the optimizer that `--optimizer` names.

    Args:
        name: "adamw" (`KernelAdamW`), "sgd" (`KernelSGD`) or "lars" (`LARS`).
        learning_rate: schedule, or number of at least 0.
        weight_decay: at least 0, of kernels alone.
        ema_momentum: of the moving average of the weights that it keeps, see `averaged_weights`; 0: it keeps none.

    Returns:
        The optimizer, with its default momentum.

    Raises:
        InputError: it has another name, or a number is out of range.
    """
    require_choice(tuple(_OPTIMIZERS), optimizer=name)
    average = {"use_ema": True, "ema_momentum": ema_momentum} if ema_momentum else {}
    return _OPTIMIZERS[name](learning_rate, weight_decay=weight_decay, **average)
