"""Label enhancement from the package python-ldl: distributions from features and logical labels, without training ours.

The package is needed for this comparison alone: `pip install '.[enhancement]'`. GLLE needs more, which must not bring a
second TensorFlow: `pip install --no-deps tensorflow-probability tf_keras dm-tree decorator cloudpickle`.

References:
    Xu, Liu, Geng, Label Enhancement for Label Distribution Learning, TKDE 2019: FCM, KM, LP, ML and GLLE.
    LEVI (Xu et al., 2020), LIBLE (Zheng et al., 2023), ConLE (Wang et al., 2023).
"""

import dataclasses
import hashlib
import importlib.util
import multiprocessing
import pathlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np
import tqdm

from mulsupcon_tf.config.command_line import import_tensorflow_quietly
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError, in_brief

ALGORITHMS = ("FCM", "KM", "LP", "ML", "GLLE", "LEVI", "LIBLE", "ConLE")


def parse_algorithms(text: str) -> list[str]:
    """Names of algorithms, separated by commas; none for an empty text.

    Raises:
        InputError: a name is unknown, or a package that it needs is not installed.
    """
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in ALGORITHMS]
    if unknown:
        raise InputError(f"--enhancement must be among {', '.join(ALGORITHMS)}, or empty. Received: {unknown[0]}")
    needed = {"pyldl": bool(names), "tensorflow_probability": "GLLE" in names}
    missing = [package for package, used in needed.items() if used and importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            "--enhancement needs python-ldl==0.1.2 (GLLE: tensorflow-probability too; see tools/results/label_enhancement.py), or leave it "
            f"empty. Received: no package {missing[0]}"
        )
    return names


@dataclasses.dataclass(frozen=True)
class Enhancement:
    """One algorithm on some samples.

    Attributes:
        title: how a message calls it.
        algorithm: one of `ALGORITHMS`.
        features: `[N, F]`, standardised.
        labels: `[N, C]`, 0 or 1.
        seed: of whatever the algorithm draws.
    """

    title: str
    algorithm: str
    features: np.ndarray
    labels: np.ndarray
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept: the name follows from what it depends on."""
        digest = hashlib.sha256(f"{self.algorithm} {self.seed}".encode())
        for array in (self.features, self.labels):
            digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return folder / f"{self.title}.{digest.hexdigest()[:16]}.npy"


def enhance_all(tasks: Sequence[Enhancement], folder: pathlib.Path, parallel: int) -> list[np.ndarray]:
    """Distributions for each task, several at a time; what the folder has already is not computed again.

    Args:
        tasks: what to compute.
        folder: keeps the results.
        parallel: processes.

    Raises:
        InputError: an algorithm fails on its samples; the others are finished and kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [task.file(folder) for task in tasks]
    waiting = {file: task for file, task in zip(files, tasks, strict=True) if not file.exists()}
    failures = []
    with (
        tqdm.tqdm(total=len(files), initial=len(files) - len(waiting), unit="enhancement") as bar,
        ProcessPoolExecutor(parallel, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        running = {pool.submit(_enhance_into, file, task): task for file, task in waiting.items()}
        for future in as_completed(running):
            bar.update()
            if error := future.exception():
                failures.append(f"{running[future].title}, which failed: {in_brief(error)}")
    if failures:
        raise InputError(
            f"--enhancement must be algorithms that work on these data. Received: {len(failures)} that did not; {failures[0]}"
        )
    return [np.load(file) for file in files]


def _enhance_into(file: pathlib.Path, task: Enhancement) -> None:
    recovered = enhance(task.algorithm, task.features, task.labels, task.seed)
    with atomic_file.replacing(file) as temporary, temporary.open("wb") as stream:
        np.save(stream, recovered)


def enhance(algorithm: str, features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Distributions of the samples themselves: these algorithms learn nothing that holds for others.

    Args:
        algorithm: one of `ALGORITHMS`, at the package's settings.
        features: `[N, F]`, standardised.
        labels: `[N, C]`, 0 or 1.
        seed: of whatever the algorithm draws.

    Returns:
        `[N, C]` float64, rows sum to 1; mass on every label that a sample has, since the package ends with a softmax.
    """
    import_tensorflow_quietly()
    from pyldl import algorithms

    used = labels.any(axis=0)  # some divide by the number of samples that have a label
    np.random.seed(seed)  # some draw from the global generator, whatever random_state says
    model = getattr(algorithms, algorithm)(random_state=seed)
    # Copies: ML writes -1 into the labels that it is given.
    model.fit(features.astype(np.float64), labels[:, used].astype(np.float64))
    recovered = np.zeros(labels.shape)
    recovered[:, used] = np.asarray(model.transform(), np.float64)
    return recovered / recovered.sum(axis=1, keepdims=True)
