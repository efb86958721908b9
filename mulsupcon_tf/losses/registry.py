"""The contrastive methods by the names that `--method` knows; a name is one entry here."""

from collections.abc import Callable
from typing import Any

from mulsupcon_tf.losses.method import Method
from mulsupcon_tf.losses.mulsupcon import MulSupCon
from mulsupcon_tf.losses.mulsupconld import CLD, RLD, KeysByDistribution
from mulsupcon_tf.losses.positives import (
    Affinity,
    ContrastOfPositives,
    OwnKey,
    all_positives,
    any_positives,
    jaccard_positives,
)
from mulsupcon_tf.utils.choices import AVERAGES
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import require_choice


def _mulsupcon(*, average: str = AVERAGES[0], affinity_power: float = 0.0, **settings) -> Method:
    if affinity_power:
        return Affinity(power=affinity_power, **settings)
    return MulSupCon(average=average, **settings)


def _truth(*, affinity_power: float = 0.0, **settings) -> Method:
    return Affinity(power=affinity_power, truth=True, **settings) if affinity_power else KeysByDistribution(**settings)


def _positives(function: Callable[[Any, Any], Any]) -> Callable[..., Method]:
    return lambda **settings: ContrastOfPositives(function, **settings)


_BUILDERS: dict[str, Callable[..., Method]] = {
    "cld": CLD,
    "rld": RLD,
    "mulsupcon": _mulsupcon,
    "any": _positives(any_positives),
    "all": _positives(all_positives),
    "jaccard": _positives(jaccard_positives),
    "self": OwnKey,
    "truth": _truth,
}


def build_method(method: str | Method | Callable[[Any, Any], Any], **settings) -> Method:
    """Makes a contrastive method from its name and settings, or from a function.

    Args:
        method: a name that `--method` knows; a function from labels `[B, C]` and key labels `[N, C]` to how much each key
            counts as a positive `[B, N]`, of which `ContrastOfPositives` is made; or a `Method`, which is returned as it
            is.
        **settings: `temperature` of every method; `alpha`, `beta` and `own_distribution` of cld and rld; `cld_kernel` of
            cld; `rbf_sigma` of rld; `average` of mulsupcon; `affinity_power` of mulsupcon and truth.

    Returns:
        The method.

    Raises:
        InputError: the name is unknown; a setting is out of range or not one of the method; or settings are given beside
            a `Method`, which has its own.
    """
    names = ", ".join(settings)
    if isinstance(method, Method):
        if settings:
            received = f"method={type(method).__name__} with {names}"
            raise InputError(f"an object must get its settings where it is made. Received: {received}")
        return method
    if isinstance(method, type):
        raise InputError(f"method must be an object, not its class. Received: method={method.__name__}")
    if not callable(method):
        require_choice(tuple(_BUILDERS), method=method)
    build = _positives(method) if callable(method) else _BUILDERS[method]
    try:
        return build(**settings)
    except TypeError as error:
        raise InputError(
            f"a setting must be one of the method. Received: method={method} with {names} ({error})"
        ) from error
