"""Packages that only some programs need, asked for in one line where they are missing."""

from mulsupcon_tf.utils.errors import InputError


def require_matplotlib() -> None:
    """Raises `InputError` where the package that draws the figures is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "A report needs matplotlib: pip install '.[report]' in the checkout. Received: none installed"
        ) from error
