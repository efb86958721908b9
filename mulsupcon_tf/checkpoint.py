"""Training state on disk: every variable of model and optimizer, and where training stands."""

import contextlib
import json
import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.atomic_file import replacing
from mulsupcon_tf.errors import InputError

State = Mapping[str, Sequence[np.ndarray]]


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

    def save(self, step: int, state: State, progress: Mapping) -> None:
        """Writes the checkpoint of `step` and removes those that are no longer needed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            f"{group}/{index:05d}": array for group, members in state.items() for index, array in enumerate(members)
        }
        with replacing(self._path(step)) as temporary, temporary.open("wb") as file:
            np.savez(file, progress=np.array(json.dumps(progress)), count=np.array(len(arrays)), **arrays)
        for old in self._paths()[: -self.kept]:
            old.unlink()

    def load_latest(self) -> tuple[dict[str, list[np.ndarray]], dict] | None:
        """The newest readable checkpoint as (state, progress), or None where there is none.

        A damaged file is reported and the one before it is used.

        Raises:
            InputError: there are checkpoints, but none can be read.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                with np.load(path, allow_pickle=False) as archive:
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
        if paths:
            raise InputError(
                f"A run is continued from a whole checkpoint. Received: only damaged ones in {self.directory}"
            )
        return None

    def latest_progress(self) -> dict[str, Any]:
        """What the newest checkpoint that has it says of where training stands; empty where there is none."""
        for path in reversed(self._paths()):
            with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as archive:  # see `load_latest`
                return json.loads(str(archive["progress"]))
        return {}

    def _path(self, step: int) -> pathlib.Path:
        return self.directory / f"step-{step:010d}.npz"

    def _paths(self) -> list[pathlib.Path]:
        return sorted(self.directory.glob("step-*.npz"))


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
