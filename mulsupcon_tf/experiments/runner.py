"""Runs what is not finished, several at a time, each on its own share of the cores."""

import dataclasses
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import tqdm

from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.experiments.plan import Run
from mulsupcon_tf.experiments.retrieval import read_retrieval
from mulsupcon_tf.experiments.run_data import RunData
from mulsupcon_tf.training.data_changes import require_data_of
from mulsupcon_tf.training.resolving import DataSize, resolved_finetuning, resolved_pretraining
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.errors import InputError


def is_finished(run: Run, data: RunData) -> bool:
    """Whether a run has its results; looks at files alone, since starting a binary to ask takes seconds.

    Args:
        run: a training, or what judges one by search: of the training's data and settings the training is asked.
        data: reads the data.

    Raises:
        InputError: a finished training is of other settings, saw other data and has no `--allow_changed_data`, or began with
            another encoder than that of its pretraining.
    """
    directory = RunDirectory(run.directory)
    if run.phase == "retrieval":
        return read_retrieval(directory, run.representation) is not None
    if not directory.finished:
        return False
    config = run.settings()
    dataset = data.stored(config)
    # Before the settings, as in the binaries: the default of one depends on the number of samples.
    require_data_of(directory, dataset, allowed=config.allow_changed_data, data_dir=config.data_dir)
    directory.check(resolved_settings(config, dataset, read_flags(directory.flags_file)))
    if isinstance(config, FinetuneConfig) and config.pretrained:
        _require_encoder_of(directory, RunDirectory(config.pretrained))
    return True


def _require_encoder_of(run: RunDirectory, pretraining: RunDirectory) -> None:
    """Raises `InputError` where a fine-tuning began with another encoder than its pretraining has, which was made again since."""
    began = run.read_summary().get("pretrained_sha256")
    if began and pretraining.read_summary().get("encoder_sha256", began) != began:
        raise InputError(
            "A fine-tuning must go on from the encoder of its pretraining; delete its folder, and the next call makes it again. "
            f"Received: {run.path}, which began with another encoder than that of {pretraining.path}"
        )


def resolved_settings(
    config: PretrainConfig | FinetuneConfig, dataset: MultiLabelDataset, written: Mapping[str, str]
) -> PretrainConfig | FinetuneConfig:
    """All settings that a training's command line means, those too that it leaves to the dataset.

    Args:
        config: what the command line says.
        dataset: as it is stored.
        written: its `flags.txt`, text by name: of the folder of its pretraining what stands there counts, since the whole
            experiment may have been moved.
    """
    size = DataSize.of(dataset)
    if isinstance(config, PretrainConfig):
        return resolved_pretraining(config, size, written)
    config = resolved_finetuning(config, size, written)
    return dataclasses.replace(config, pretrained=written.get("pretrained")) if config.pretrained else config


def run_all(chains: Sequence[Sequence[Run]], parallel: int) -> list[str]:
    """Runs every run that is not finished, the runs of a chain one after the other.

    A failure ends its chain, not the others. An interruption is passed on to the running processes, which save their
    state; the next call continues them.

    Args:
        chains: see `Plan.chains`.
        parallel: how many chains run at the same time.

    Returns:
        One line for each run that failed.

    Raises:
        InputError: see `is_finished`; nothing has been started then.
    """
    waiting = _unfinished(chains)
    total = sum(map(len, chains))
    pool = _Processes(parallel)
    with tqdm.tqdm(total=total, initial=total - sum(map(len, waiting)), unit="run") as bar:

        def follow(chain: list[Run]) -> str | None:
            for number, run in enumerate(chain):
                failure = pool.run(run)
                if failure:
                    bar.update(len(chain) - number)
                    return failure
                bar.update()
            return None

        # A tool that just died would leave its processes at work, in folders that its next call needs.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        with ThreadPoolExecutor(parallel) as threads:
            try:
                return [line for line in threads.map(follow, filter(None, waiting)) if line]
            except BaseException:  # Ctrl-C or SIGTERM
                pool.stop()
                threads.shutdown(wait=True, cancel_futures=True)
                raise
            finally:
                signal.signal(signal.SIGTERM, before)


def _unfinished(chains: Sequence[Sequence[Run]]) -> list[list[Run]]:
    data = RunData()
    return [[run for run in chain if not is_finished(run, data)] for chain in chains]


class _Processes:
    """Processes on shares of the cores, which can be stopped together."""

    def __init__(self, parallel: int):
        cores = sorted(os.sched_getaffinity(0))
        self._shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        for worker in range(parallel):
            self._shares.put(cores[worker::parallel] or cores)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def run(self, run: Run) -> str | None:
        """Runs a binary to its end; a line that says what went wrong, or None."""
        command = [sys.executable, "-m", f"mulsupcon_tf.{run.binary}", *run.arguments, f"--workdir={run.directory}"]
        share = self._shares.get()
        try:
            with self._lock:
                if self._stopped:
                    return f"{run.title}: not started"
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                os.sched_setaffinity(process.pid, share)  # long before TensorFlow counts the cores
                self._running.add(process)
            errors = process.communicate()[1].strip().splitlines()
            with self._lock:
                self._running.discard(process)
        finally:
            self._shares.put(share)
        if process.returncode:
            return f"{run.title}: {errors[-1] if errors else f'exit status {process.returncode}'}"
        return None

    def stop(self) -> None:
        """Asks the running processes to save and end; starts no other."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.terminate()
