"""Where what can be had again is kept, so that it need not be."""

import os
import pathlib


def cache_folder(name: str) -> pathlib.Path:
    """The folder `mulsupcon_tf/NAME` below `$XDG_CACHE_HOME` or `~/.cache`; it need not exist."""
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "mulsupcon_tf" / name
