"""Runs what is not finished, several at a time, each on its own share of the cores."""

import dataclasses
import functools
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tqdm

from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.experiments.plan import Run
from mulsupcon_tf.experiments.retrieval import read_retrieval
from mulsupcon_tf.training.resolving import DataSize, resolved_finetuning, resolved_pretraining
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags


def is_finished(run: Run) -> bool:
    """Whether a run has its results; looks at files alone, since starting a binary to ask takes seconds.

    Raises:
        InputError: the run directory belongs to other settings.
    """
    directory = RunDirectory(run.directory)
    if not directory.finished:
        return False
    if run.phase == "retrieval":
        return read_retrieval(directory, run.representation) is not None
    directory.check(resolved_settings(run, read_flags(directory.flags_file)))
    return True


def resolved_settings(run: Run, written: Mapping[str, str]) -> PretrainConfig | FinetuneConfig:
    """All settings that a training's command line means, those too that it leaves to the dataset.

    Args:
        run: the training.
        written: its `flags.txt`, text by name: of the folder of its pretraining what stands there counts, since the whole
            experiment may have been moved.
    """
    config = run.settings()
    size = _data_size(config.dataset, config.data_dir, **config.reading_options)
    if isinstance(config, PretrainConfig):
        return resolved_pretraining(config, size, written)
    config = resolved_finetuning(config, size, written)
    return dataclasses.replace(config, pretrained=written.get("pretrained")) if config.pretrained else config


@functools.cache
def _data_size(dataset: str, data_dir: str | None, **reading_options: Any) -> DataSize:
    return DataSize.of(load_dataset(dataset, data_dir, **reading_options))


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
    waiting = [[run for run in chain if not is_finished(run)] for chain in chains]
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
        command = [sys.executable, "-m", f"mulsupcon_tf.{run.binary}", f"--workdir={run.directory}", *run.arguments]
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
