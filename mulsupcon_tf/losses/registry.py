"""The contrastive methods by the names that `--method` knows; what each name stands for is said in `utils.choices`."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from mulsupcon_tf.losses.method import Method
from mulsupcon_tf.losses.positives import ContrastOfPositives
from mulsupcon_tf.utils.choices import METHODS
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.tensors import require_choice


def _builder_of(place: str) -> Callable[..., Method]:
    module, name = place.split(":")
    found = getattr(importlib.import_module(f"mulsupcon_tf.losses.{module}"), name)
    return found if isinstance(found, type) else functools.partial(ContrastOfPositives, found)


# Imported at once, so that Keras knows the classes of saved models.
_BUILDERS = {name: _builder_of(place) for name, place in METHODS.items()}


def build_method(method: str | Method | Callable[[Any, Any], Any], **settings) -> Method:
    """Makes a contrastive method from its name and settings, or from a function.

    Args:
        method: a name that `--method` knows; a function from labels `[B, C]` and key labels `[N, C]` to how much each key
            counts as a positive `[B, N]`, of which `ContrastOfPositives` is made; or a `Method`, which is returned as it
            is.
        **settings: `temperature` of every method; `alpha`, `beta` and `own_distribution` of cld and rld; `cld_kernel` of
            cld; `rbf_sigma` of rld; `average` of mulsupcon.

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
    if callable(method):
        build: Callable[..., Method] = functools.partial(ContrastOfPositives, method)
    else:
        require_choice(tuple(METHODS), method=method)
        build = _BUILDERS[method]
    try:
        return build(**settings)
    except TypeError as error:
        raise InputError(
            f"a setting must be one of the method. Received: method={method} with {names} ({error})"
        ) from error
