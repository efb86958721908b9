"""Checkpoints: what training stands at, how it is written and read, and which are kept."""

import contextlib
import dataclasses
import json
import logging
import math
import pathlib
import platform
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import mulsupcon_tf
from mulsupcon_tf.models.guarded_model import GuardedModel
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.atomic_file import regular_file, replacing
from mulsupcon_tf.utils.errors import InputError

State = Mapping[str, Sequence[np.ndarray]]


@dataclasses.dataclass
class TrainingState:
    """Where training stands. Saved with each checkpoint.

    Attributes:
        data: fingerprint of the data.
        frozen_weights: hash of the network on whose features is trained; "" without `--freeze_backbone`.
        changed_data: what is different from the data that the run began with, or that its pretraining saw; "" if nothing.
        epoch: finished epochs.
        step: finished steps; a checkpoint may lie within an epoch.
        seconds: wall time spent in training so far, over all starts of the run.
        timed_seconds: those of them without the first call of the compiled graph of each start, which compiles it.
        timed_steps: steps in `timed_seconds`.
        best_score: what the weights are selected by, at its best so far: validation mAP, or minus the validation loss.
        best_epoch: the epoch that reached it.
        best_weights: model variables of that epoch; empty where no validation is done.
        stopped: whether the epoch hook ended training before its last epoch.
    """

    data: str = ""
    frozen_weights: str = ""
    changed_data: str = ""
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    timed_seconds: float = 0.0
    timed_steps: int = 0
    best_score: float = -math.inf
    best_epoch: int = 0
    best_weights: list[np.ndarray] = dataclasses.field(default_factory=list)
    stopped: bool = False

    def progress(self) -> dict[str, Any]:
        """Everything but the weights, for the checkpoint's JSON."""
        fields = dataclasses.asdict(dataclasses.replace(self, best_weights=[]))
        del fields["best_weights"]
        return fields


class CheckpointStore:
    """Numbered checkpoints in a folder, the newest few kept.

    A checkpoint is one `.npz` file: `<group>/<index>` for the arrays of each group (say "model", "optimizer"), `count`,
    their number, and `progress`, a JSON text. It is renamed into place when whole, and the CRC of each member is checked on reading.

    Args:
        directory: made by the first `save`.
        kept: how many of the newest checkpoints stay.
    """

    def __init__(self, directory: pathlib.Path, kept: int = 2):
        self.directory, self.kept = directory, kept
        self._passed_over: set[pathlib.Path] = set()

    def save(self, step: int, state: State, progress: Mapping) -> None:
        """Writes the checkpoint of `step` and removes those that are no longer needed, but none of a later step."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            f"{group}/{index:05d}": array for group, members in state.items() for index, array in enumerate(members)
        }
        written = self._path(step)
        with replacing(written) as temporary, temporary.open("wb") as file:
            np.savez(file, progress=np.array(json.dumps(progress)), count=np.array(len(arrays)), **arrays)
        self._passed_over.discard(written)
        # A damaged one does not count among those that are kept; it stays until its step has come again.
        done = [path for path in self._paths() if path <= written]
        kept = [path for path in done if path not in self._passed_over][-self.kept :]
        for old in done:
            if old not in kept:
                old.unlink()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, whole or not: then training goes on from one, or not at all."""
        return bool(self._paths())

    def load_latest(self) -> tuple[dict[str, list[np.ndarray]], dict] | None:
        """The newest readable checkpoint as (state, progress), or None where there is none.

        A damaged file is reported and the one before it is used.

        Raises:
            InputError: there are checkpoints, but none can be read.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                with _open(path) as archive:
                    state: dict[str, list[np.ndarray]] = {}
                    names = sorted(set(archive.files) - {"progress", "count"})
                    if len(names) != archive["count"]:  # damage to the table of contents may hide members
                        raise ValueError(f"{len(names)} of {archive['count']} arrays")
                    for name in names:
                        state.setdefault(name.split("/")[0], []).append(archive[name])
                    return state, json.loads(str(archive["progress"]))
            except Exception as error:  # damage may surface anywhere in the readers of zip, npy and JSON
                logging.getLogger("mulsupcon_tf").warning(
                    "warning: checkpoint %s is damaged and is passed over (%.100s)", path, error
                )
                self._passed_over.add(path)
        if paths:
            raise InputError(
                f"A run is continued from a whole checkpoint. Received: only damaged ones in {self.directory}"
            )
        return None

    def latest_progress(self) -> dict[str, Any]:
        """What the newest checkpoint that has it says of where training stands; empty where there is none."""
        for path in reversed(self._paths()):
            with contextlib.suppress(Exception), _open(path) as archive:  # see `load_latest`
                return json.loads(str(archive["progress"]))
        return {}

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f"step-{step:010d}.npz"

    def _paths(self) -> list[pathlib.Path]:
        return sorted(self.directory.glob("step-*.npz"))


def _open(path: pathlib.Path) -> np.lib.npyio.NpzFile:
    """The arrays of a checkpoint, of which nothing is read yet and none is larger than its part of the file.

    Raises:
        ValueError: an array is compressed, as `CheckpointStore` leaves none: a small file could fill the memory.
    """
    with zipfile.ZipFile(regular_file(path)) as members:
        if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
            raise ValueError("compressed arrays")
    return np.load(path, allow_pickle=False)


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
        devices.part()
        raise InputError(
            "Workers continue from the same checkpoint; --workdir must be a folder that they all share. "
            f"Received: {', '.join(f'step {step} for worker {worker}' for worker, step in enumerate(steps))}"
        )
    if loaded is None:
        run.forget_epochs_after(0)
        devices.seed_replicas_differently(model)
        return
    arrays, progress = loaded
    assign_all(model.variables, arrays["model"], "model")
    assign_all(model.optimizer.variables, arrays["optimizer"], "optimizer")
    # Means over the part of the epoch that is done; their total is a sum over the replicas unless each is given its own.
    assign_all(model.metrics_variables, arrays["metrics"], "metrics")
    devices.assign_everywhere(model.metrics_variables, arrays["metrics"])
    devices.seed_replicas_differently(model)
    # Older checkpoints do not have all of it.
    of_this_start = {"data", "frozen_weights", "changed_data"}
    for name in (state.progress().keys() & progress.keys()) - of_this_start:
        setattr(state, name, progress[name])
    earlier = progress.get("changed_data", "")
    changes = [earlier] if state.changed_data in earlier else [earlier, state.changed_data]
    state.changed_data = "; ".join(filter(None, changes))
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


def assign_all(variables: Sequence, arrays: Sequence[np.ndarray], what: str) -> None:
    """Gives each variable its array, all or none.

    Args:
        variables: Keras variables.
        arrays: as many arrays, of the same shapes.
        what: for the message: "model", "optimizer".

    Raises:
        InputError: count or shapes differ, so the checkpoint is of another model.
    """
    expected, received = [tuple(variable.shape) for variable in variables], [array.shape for array in arrays]
    if expected != received:
        position = next(
            (i for i, (a, b) in enumerate(zip(expected, received, strict=False)) if a != b),
            min(len(expected), len(received)),
        )
        raise InputError(
            f"The checkpoint's {what} must have {len(expected)} variables of this run's shapes. "
            f"Received: {len(received)} variables, the first difference at number {position}"
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
