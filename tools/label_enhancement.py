"""Label enhancement from the package python-ldl: distributions from features and logical labels, without training ours.

The package is needed for this comparison alone: `pip install python-ldl==0.1.2`; GLLE needs tensorflow-probability too.

References:
    Xu, Liu, Geng, Label Enhancement for Label Distribution Learning, TKDE 2019: FCM, KM, LP, ML and GLLE.
    LEVI (Xu et al., 2020), LIBLE (Zheng et al., 2023), ConLE (Wang et al., 2023).
"""

import numpy as np

from mulsupcon_tf.command_line import import_tensorflow_quietly
from mulsupcon_tf.errors import InputError

ALGORITHMS = ("FCM", "KM", "LP", "ML", "GLLE", "LEVI", "LIBLE", "ConLE")


def require_package(algorithms: list[str]) -> None:
    """Checks that the package can be imported, and that it has the algorithms.

    Raises:
        InputError: what is missing, and how to get it.
    """
    unknown = [name for name in algorithms if name not in ALGORITHMS]
    if unknown:
        raise InputError(f"--enhancement must be among {', '.join(ALGORITHMS)}, or empty. Received: {unknown[0]}")
    if algorithms:
        import_tensorflow_quietly()
    try:
        if algorithms:
            from pyldl.algorithms import LP  # noqa: F401
        if "GLLE" in algorithms:
            import tensorflow_probability  # noqa: F401
    except ImportError as error:
        raise InputError(
            "--enhancement needs pip install python-ldl==0.1.2 (and tensorflow-probability, tf_keras for GLLE); empty: without. "
            f"Received: {error}"
        ) from None


def enhance(algorithm: str, features: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Distributions of the samples themselves: these algorithms learn nothing that holds for others.

    Args:
        algorithm: one of `ALGORITHMS`, at the package's settings.
        features: `[N, F]`, standardised.
        labels: `[N, C]`, 0 or 1.
        seed: of whatever the algorithm draws.

    Returns:
        `[N, C]` float64, rows sum to 1; mass on every label, since the package ends with a softmax over all of them.
    """
    from pyldl import algorithms

    np.random.seed(seed)  # some draw from the global generator, whatever random_state says
    model = getattr(algorithms, algorithm)(random_state=seed)
    # Copies: ML writes -1 into the labels that it is given.
    model.fit(features.astype(np.float64), labels.astype(np.float64))
    recovered = np.asarray(model.transform(), np.float64)
    return recovered / recovered.sum(axis=1, keepdims=True)
