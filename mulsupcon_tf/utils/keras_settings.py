"""Keras set as this package needs it: on TensorFlow, channels last, 32 bits.

KERAS_BACKEND and `keras.json` may say otherwise for other programs of the same user, and Keras obeys without a word: with
`channels_first` the rows of an image are taken for its channels and training goes on. The binaries set Keras themselves.
In a program of somebody else's the settings are that program's: what does not fit is refused.

Importing this module imports neither Keras nor TensorFlow.
"""

import json
import os
import pathlib
import sys
from typing import Any

from mulsupcon_tf.utils.errors import InputError

_BACKEND = "tensorflow"
_SETTINGS = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
_REFUSED = ("image_data_format", "floatx")


def choose_tensorflow() -> None:
    """Makes Keras run on TensorFlow; to be called before it is imported."""
    os.environ["KERAS_BACKEND"] = _BACKEND


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
            f"Received: KERAS_BACKEND={backend} (of the environment or keras.json)"
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


def _settings_file() -> dict[str, Any]:
    folder = os.environ.get("KERAS_HOME") or "~/.keras"
    try:
        settings = json.loads((pathlib.Path(folder).expanduser() / "keras.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # none, no JSON, no home: Keras ignores it too
        return {}
    return settings if isinstance(settings, dict) else {}
