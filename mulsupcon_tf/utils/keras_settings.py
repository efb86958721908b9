"""Keras set as this package needs it: on TensorFlow, channels last, 32 bits.

KERAS_BACKEND and `keras.json` may say otherwise for other programs of the same user, and Keras obeys without a word: with
`channels_first` the rows of an image are taken for its channels and training goes on. The binaries set Keras themselves.
In a program of somebody else's the settings are that program's: what does not fit is refused.

Importing this module imports neither Keras nor TensorFlow.
"""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from mulsupcon_tf.utils.errors import InputError, in_brief

_BACKEND = "tensorflow"
_SETTINGS = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
_REFUSED = ("image_data_format", "floatx")


def choose_tensorflow() -> None:
    """Makes Keras run on TensorFlow; to be called before it is imported."""
    os.environ["KERAS_BACKEND"] = _BACKEND


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """A `with` block in which Keras is imported, which ends in an error of any kind where it cannot use its settings.

    Raises:
        InputError: in place of that error.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        raise InputError(
            "Keras must be able to use its settings: mend or remove them. "
            f"Received: {type(error).__name__} {in_brief(error)}, of {_settings_path()} or a variable KERAS_..."
        ) from error


def settle() -> None:
    """Gives Keras the settings that it has where nobody has changed any."""
    import keras

    for name, value in _SETTINGS.items():
        getattr(keras.config, f"set_{name}")(value)


def require_tensorflow() -> None:
    """Checks that Keras runs on TensorFlow, or will when it is imported.

    Raises:
        InputError: it does not.
    """
    if "keras" in sys.modules:
        import keras

        backend = keras.config.backend()
    else:
        backend = os.environ.get("KERAS_BACKEND") or _settings_file().get("backend", _BACKEND)
    if backend != _BACKEND:
        raise InputError(
            "Keras must run on TensorFlow: set KERAS_BACKEND=tensorflow before it is imported. "
            f"Received: KERAS_BACKEND={' '.join(str(backend).split())} (of the environment or keras.json)"
        )


def require_settings() -> None:
    """Checks that Keras makes layers of channels last and 32 bits.

    Raises:
        InputError: it does not.
    """
    import keras

    for name in _REFUSED:
        value = getattr(keras.config, name)()
        if value != _SETTINGS[name]:
            raise InputError(
                f"Keras must be set to {name} {_SETTINGS[name]}: keras.config.set_{name}({_SETTINGS[name]!r}). "
                f"Received: {value} (of keras.json, or set by this program)"
            )


def _settings_path() -> pathlib.Path:
    return pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras") / "keras.json"


def _settings_file() -> dict[str, Any]:
    try:
        settings = json.loads(_settings_path().expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # none, no JSON, no home: Keras ignores it too
        return {}
    return settings if isinstance(settings, dict) else {}
