"""Where training stands, in memory and in a checkpoint."""

import dataclasses
import logging
import math
import platform
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mulsupcon_tf
from mulsupcon_tf.checkpoint import CheckpointStore, assign_all
from mulsupcon_tf.devices import Devices
from mulsupcon_tf.errors import InputError
from mulsupcon_tf.finite_guard import GuardedModel
from mulsupcon_tf.run_directory import RunDirectory


@dataclasses.dataclass
class TrainingState:
    """Where training stands. Saved with each checkpoint.

    Attributes:
        data: fingerprint of the data.
        changed_data: what is different from the data that the run began with, or that its pretraining saw; "" if nothing.
        epoch: finished epochs.
        step: finished steps; a checkpoint may lie within an epoch.
        seconds: wall time spent in training so far, over all starts of the run.
        best_loss: lowest validation loss so far.
        best_epoch: the epoch that reached it.
        best_weights: model variables of that epoch; empty where no validation is done.
        stopped: whether the epoch hook ended training before its last epoch.
    """

    data: str = ""
    changed_data: str = ""
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_loss: float = math.inf
    best_epoch: int = 0
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    stopped: bool = False

    def progress(self) -> dict[str, Any]:
        """Everything but the weights, for the checkpoint's JSON."""
        fields = dataclasses.asdict(dataclasses.replace(self, best_weights=[]))
        del fields["best_weights"]
        return fields


def save(store: CheckpointStore, model: GuardedModel, state: TrainingState, devices: Devices) -> None:
    """Writes a checkpoint of the model, its optimizer, its running means and the state."""
    arrays = {
        "model": [devices.value(variable) for variable in model.variables],
        "optimizer": [devices.value(variable) for variable in model.optimizer.variables],
        "metrics": [devices.value(variable) for variable in model.metrics_variables],
        "best": state.best_weights,
    }
    store.save(state.step, arrays, state.progress() | {"versions": versions()})


def restore(
    store: CheckpointStore, model: GuardedModel, state: TrainingState, run: RunDirectory, devices: Devices
) -> None:
    """Continues from the newest checkpoint, if there is one; drops the log lines of epochs that will be repeated.

    Raises:
        InputError: the checkpoint is of another model, or the workers see different ones.
    """
    loaded = store.load_latest()
    steps = devices.gather([loaded[1]["step"] if loaded else 0])[:, 0].astype(int).tolist()
    if len(set(steps)) > 1:
        raise InputError(
            "Workers continue from the same checkpoint; --workdir must be a folder that they all share. "
            f"Received: {', '.join(f'step {step} for worker {worker}' for worker, step in enumerate(steps))}"
        )
    if loaded is None:
        run.forget_epochs_after(0)
        devices.draw_apart(model)
        return
    arrays, progress = loaded
    assign_all(model.variables, arrays["model"], "model")
    assign_all(model.optimizer.variables, arrays["optimizer"], "optimizer")
    # Means over the part of the epoch that is done; their total is a sum over the replicas unless each is given its own.
    assign_all(model.metrics_variables, arrays["metrics"], "metrics")
    devices.assign_everywhere(model.metrics_variables, arrays["metrics"])
    devices.draw_apart(model)
    for name in state.progress().keys() - {"data", "changed_data"}:  # which are of this start
        setattr(state, name, progress[name])
    told = progress.get("changed_data", "")  # older checkpoints do not have it
    state.changed_data = told if state.changed_data in told else "; ".join(filter(None, (told, state.changed_data)))
    state.best_weights = arrays.get("best", [])
    run.forget_epochs_after(state.epoch)
    logger = logging.getLogger("mulsupcon_tf")
    logger.info("continuing %s after epoch %d (step %d)", run.path, state.epoch, state.step)
    here = versions()
    changed = {name: version for name, version in progress["versions"].items() if here.get(name) != version}
    if changed:
        logger.warning(
            "warning: the checkpoint is of %s, this is %s: the run goes on, but its last bits may differ",
            ", ".join(f"{name} {version}" for name, version in changed.items()),
            ", ".join(f"{name} {here.get(name)}" for name in changed),
        )


def versions() -> dict[str, str]:
    """What the arithmetic of a run depends on, by name."""
    return {
        "mulsupcon_tf": mulsupcon_tf.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
