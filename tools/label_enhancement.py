"""Label enhancement from the package python-ldl: distributions from features and logical labels, without training ours.

The package is needed for this comparison alone: `pip install '.[enhancement]'`. GLLE needs more, which must not bring a
second TensorFlow: `pip install --no-deps tensorflow-probability tf_keras dm-tree decorator cloudpickle`.

References:
    Xu, Liu, Geng, Label Enhancement for Label Distribution Learning, TKDE 2019: FCM, KM, LP, ML and GLLE.
    LEVI (Xu et al., 2020), LIBLE (Zheng et al., 2023), ConLE (Wang et al., 2023).
"""

import importlib.util

import numpy as np

from mulsupcon_tf.command_line import import_tensorflow_quietly
from mulsupcon_tf.errors import InputError

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
            "--enhancement needs python-ldl==0.1.2 (GLLE: tensorflow-probability too; see tools/label_enhancement.py), or leave it "
            f"empty. Received: no package {missing[0]}"
        )
    return names


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
