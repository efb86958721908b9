"""Packages that only some programs need, asked for in one line where they are missing."""

from typing import Any

from mulsupcon_tf.utils.errors import InputError


def require_matplotlib() -> None:
    """Raises `InputError` where the package that draws the figures is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "A report needs matplotlib: pip install '.[report]' in the checkout. Received: none installed"
        ) from error


def require_pillow() -> None:
    """Raises `InputError` where the package that makes small pictures is not installed."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(
            "A sheet needs Pillow: pip install '.[report]' in the checkout. Received: none installed"
        ) from error


def require_faiss(most: int) -> Any:
    """The module that searches large galleries.

    Args:
        most: items that are searched without it.

    Raises:
        InputError: it is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise InputError(
            f"A gallery of more than {most} items needs faiss: pip install '.[search]' in the checkout. Received: none installed"
        ) from error
    return faiss


def require_gradio() -> Any:
    """The module that makes the page of `app`; raises `InputError` where it is not installed."""
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise InputError(
            "The page needs gradio: pip install '.[app]' in the checkout. Received: none installed"
        ) from error
    return gradio


def require_litert() -> Any:
    """The module that runs LiteRT files; raises `InputError` where it is not installed."""
    try:
        from ai_edge_litert import interpreter
    except ModuleNotFoundError as error:
        raise InputError(
            "To judge a quantised model takes LiteRT: pip install '.[litert]' in the checkout. Received: none installed"
        ) from error
    return interpreter
