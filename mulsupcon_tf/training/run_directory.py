"""The folder of one run: its settings, its log of epochs, its results. A run never writes into another's folder."""

import contextlib
import functools
import json
import logging
import os
import pathlib
import platform
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import numpy as np

from mulsupcon_tf.config.fields import MAY_DIFFER, as_flag_lines, as_texts, settings_of_run
from mulsupcon_tf.training.stored import EPOCH, Content, json_object, misfit, misfit_of_summary
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError

_LOCK = ".lock"
# Settings of the methods that earlier versions called cld and rld: a reconstruction made without the paper's text.
_OF_THE_RECONSTRUCTION = ("rho", "temperature_d", "gamma", "recovery_gradient", "weigh_keys")


class RunDirectory:
    """Names and writes the files of a run directory. In a `with` block it may be claimed, to be written.

    Args:
        path: the folder; it is made by `claim`.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = pathlib.Path(path)
        self._lock = filelock.FileLock(self.path / _LOCK)
        self.flags_file = self.path / "flags.txt"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.encoder_weights = self.path / "encoder.weights.h5"
        self.head = self.path / "head.npz"
        self.keras_model = self.path / "model.keras"
        self.saved_model = self.path / "saved_model"
        self.test_outputs = self.path / "test_outputs.npz"
        self.bad_images = self.path / "bad_images.txt"
        self.retrieval = self.path / "retrieval.json"

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release(force=True)

    def _holder(self) -> str:
        try:
            return (self.path / _LOCK).read_text(encoding="utf-8") or "another process"
        except OSError:  # Windows lets nobody read a locked file
            return "another process"

    def check(self, config: Any) -> None:
        """Refuses a folder that belongs to other settings or to something else; touches nothing.

        Raises:
            InputError: the folder holds a run with other settings (the differences are named), or other files.
        """
        if not self.path.is_dir() and (self.path.exists() or self.path.is_symlink()):
            what = f"the file {self.path}" if self.path.exists() else f"the link {self.path}, which leads nowhere"
            raise InputError(f"--workdir must be a folder. Received: {what}")
        if not self.flags_file.exists():
            if self.path.exists() and any(path.name != _LOCK for path in self.path.iterdir()):
                raise InputError(
                    f"--workdir must be a new or empty folder, or a run to continue. Received: {self.path}, which has other files"
                )
            return
        written = (read_flags(self.flags_file), _as_dict(as_flag_lines(config)))
        there, here = (settings_of_run(config, settings) for settings in written)
        names = [name for name in sorted(there | here) if name not in MAY_DIFFER and there.get(name) != here.get(name)]
        # Whether what it has learnt allows that says `phase_data.without_bad_images`, which looks at the images.
        if names and not (names == ["skip_bad_images"] and here["skip_bad_images"] == "true"):
            shown = "; ".join(
                f"--{name}: {there.get(name, 'not set')} there, {here.get(name, 'not set')} here" for name in names
            )
            raise InputError(
                f"--workdir={self.path} belongs to a run with other settings; choose another folder. Received: {shown}"
            )

    def claim(self, config: Any) -> None:
        """Takes the folder for this process, writes `flags.txt` unless an earlier start of the run has, and tidies up.

        The folder stays taken until the `with` block of this object ends; the operating system lets go of it however
        the process ends.

        Raises:
            InputError: another process is at work in the folder, or see `check`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise InputError(
                f"A run directory is written by one process at a time. Received: {self.path}, in use by {self._holder()}"
            ) from None
        with atomic_file.naming(self.path / _LOCK):
            (self.path / _LOCK).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        self.check(config)  # again: another process may have been here since
        for folder in (self.path, self.checkpoints):
            atomic_file.remove_partial(folder)
        if not self.flags_file.exists():
            self.write_flags(vars(config))

    def write_flags(self, settings: Mapping[str, Any]) -> None:
        """Writes `flags.txt`, which repeats the run; of settings that are None nothing."""
        atomic_file.write_text(
            self.flags_file, "".join(f"--{name}={text}\n" for name, text in as_texts(settings).items())
        )

    @property
    def finished(self) -> bool:
        """Whether the run has written its results."""
        return self.summary_file.exists()

    def log_epoch(self, record: dict[str, Any]) -> None:
        """Appends one line to `metrics.jsonl`."""
        with atomic_file.naming(self.metrics_file), self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def epochs(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; one that is cut short or damaged is left out, with a warning."""
        if not self.metrics_file.exists():
            return []
        records = []
        lines = atomic_file.regular_file(self.metrics_file).read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            record = json_object(line)
            if record is not None and "epoch" in record and misfit(record, EPOCH) is None:
                records.append(record)
            else:
                logging.getLogger("mulsupcon_tf").warning(
                    "warning: %s, line %d is damaged and is left out (%.40s)", self.metrics_file, number, line
                )
        return records

    def flush_log(self) -> None:
        """Puts `metrics.jsonl` on disk, so that no line is missing beside a checkpoint that is there."""
        if self.metrics_file.exists():
            atomic_file.flush_file(self.metrics_file)

    def forget_epochs_after(self, epoch: int) -> None:
        """Drops the lines of epochs that a continued run is about to repeat."""
        kept = [record for record in self.epochs() if record["epoch"] <= epoch]
        atomic_file.write_text(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))

    def write_test_outputs(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Writes what the model gave for the test split, one row a sample, to `test_outputs.npz`, for reports."""
        with atomic_file.replacing(self.test_outputs) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **dict(outputs))  # type: ignore[arg-type]

    def write_head(self, kernel: np.ndarray, bias: np.ndarray) -> None:
        """Writes a linear layer on the encoder, `[R, C]` and `[C]`, for a classifier to go on with."""
        with atomic_file.replacing(self.head) as temporary, temporary.open("wb") as file:
            np.savez(file, kernel=kernel, bias=bias)

    def read_head(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Kernel `[R, C]` and bias `[C]` that `write_head` wrote; None where there is none.

        Raises:
            InputError: the file is damaged.
        """
        if not self.head.exists():
            return None
        try:
            with np.load(atomic_file.regular_file(self.head), allow_pickle=False) as arrays:
                return arrays["kernel"], arrays["bias"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"--pretrained must hold a whole head.npz. Received: {self.head} ({error})") from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Writes `summary.json`; from then on the run counts as finished."""
        atomic_file.write_text(self.summary_file, json.dumps(summary, indent=2) + "\n")

    @contextlib.contextmanager
    def whole_encoder_weights(self, setting: str) -> Iterator[pathlib.Path]:
        """Gives the path of `encoder.weights.h5`; whatever is wrong with the file in the `with` block is one line.

        Args:
            setting: the flag that named this folder.

        Raises:
            InputError: it is missing or damaged, be it by a flipped bit, of which HDF5 knows nothing.
        """
        try:
            written = self.read_summary().get("encoder_sha256")
            if written is not None and atomic_file.sha256(atomic_file.regular_file(self.encoder_weights)) != written:
                raise ValueError("not the bytes that the pretraining wrote")
            yield self.encoder_weights
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{setting} must hold a whole encoder.weights.h5. Received: {self.encoder_weights} ({error})"
            ) from error

    def read_summary(self) -> dict[str, Any]:
        """The results.

        Raises:
            InputError: the run has not finished, `summary.json` is damaged, or the folder is no run directory.
        """
        if not self.finished:
            lack = "has none: is its run finished?" if self.path.exists() else "does not exist"
            raise InputError(f"A finished run directory holds summary.json. Received: {self.path}, which {lack}")
        text = atomic_file.regular_file(self.summary_file).read_text(encoding="utf-8", errors="replace")
        summary = json_object(text, functools.partial(Content, self.summary_file))
        if summary is None or summary.get("phase") not in ["pretrain", "finetune"]:
            raise InputError(
                "summary.json must hold the results of a run; without the file, the run's command writes it anew. "
                f"Received: {self.summary_file}, which begins {text[:40]!r}"
            )
        wrong = misfit_of_summary(summary)
        if wrong is not None:
            raise InputError(
                "summary.json must hold the results of a run as they were written. "
                f"Received: {self.summary_file}, with {wrong!r} of another kind"
            )
        return summary


class _FollowersDirectory(RunDirectory):
    """What a worker that is not the chief has instead: it reads the chief's folder and writes to one of its own.

    Args:
        path: the chief's folder.
        own: the folder to write to.
    """

    def __init__(self, path: str | pathlib.Path, own: str):
        super().__init__(own)
        self._chiefs = RunDirectory(path)
        self.flags_file, self.checkpoints = self._chiefs.flags_file, self._chiefs.checkpoints

    def check(self, config: Any) -> None:
        if self._chiefs.flags_file.exists():  # else the chief may be about to write it
            self._chiefs.check(config)

    def claim(self, config: Any) -> None:
        del config  # nobody else writes here

    @property
    def finished(self) -> bool:
        return self._chiefs.finished

    def read_summary(self) -> dict[str, Any]:
        return self._chiefs.read_summary()


@contextlib.contextmanager
def run_directory_of(path: str | pathlib.Path, *, is_chief: bool) -> Iterator[RunDirectory]:
    """The run directory for one of the workers that train together.

    Args:
        path: the folder, which all workers see.
        is_chief: whether this worker writes it. What another one writes is thrown away in the end.
    """
    with contextlib.ExitStack() as stack:
        if is_chief:
            yield stack.enter_context(RunDirectory(path))
        else:
            own = stack.enter_context(tempfile.TemporaryDirectory(prefix="mulsupcon_tf-worker-"))
            yield stack.enter_context(_FollowersDirectory(path, own))


def read_flags(path: pathlib.Path) -> dict[str, str]:
    """The settings in a `flags.txt`, as text by name.

    Raises:
        InputError: there are none, or a line is damaged.
    """
    # Line breaks alone end a line: a path may hold other characters that `splitlines` takes for one.
    text = atomic_file.regular_file(path).read_text(encoding="utf-8", errors="replace")
    lines = text.removesuffix("\n").split("\n") if text else []
    damaged = next((line for line in lines if not re.fullmatch(r"--\w+=.*", line)), None)
    if damaged is not None or not lines:
        raise InputError(
            "flags.txt must hold the settings of a run, one --name=value a line. "
            f"Received: {path}, {'which is empty' if damaged is None else f'with the line {damaged[:40]!r}'}"
        )
    settings = _as_dict(lines)
    gone = next((name for name in _OF_THE_RECONSTRUCTION if name in settings), None)
    if gone is not None:
        raise InputError(
            "a pretraining must be of the published method; earlier versions trained a reconstruction of it, whose settings "
            f"are gone: pretrain again. Received: {path} with --{gone}={settings[gone]}"
        )
    return Content(path, settings)


def _as_dict(lines: list[str]) -> dict[str, str]:
    return dict(line.removeprefix("--").split("=", 1) for line in lines)
