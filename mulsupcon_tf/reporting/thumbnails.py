"""Small copies of image files, as they stand in a page."""

import io
import pathlib
import warnings

import PIL.Image
from PIL.Image import Transpose

from mulsupcon_tf.datasets.base import IMAGE_SUFFIXES
from mulsupcon_tf.reporting import page

SIDE = 200
_ORIENTATION = 0x0112  # tag of EXIF
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def thumbnail(file: str) -> PIL.Image.Image | None:
    """A copy in colour that stands upright, its longer side at most `SIDE`; None for a file that Pillow cannot read."""
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(file) as opened:
            opened.draft("RGB", (SIDE, SIDE))
            # Pillow cuts 16 bits off at 255, which is white; the model sees the upper eight.
            shown = opened.point(lambda value: value / 256) if opened.mode.startswith("I") else opened
            photo = shown.convert("RGB")
            turn = _turn(opened)
    # Of a file that the model has read: damage where the model does not look, or a limit of Pillow's, meets code of Pillow's
    # that raises what it happens to, an OSError or a struct.error or a ValueError.
    except Exception:
        return None
    photo.thumbnail((SIDE, SIDE))
    return photo if turn is None else photo.transpose(turn)


def _turn(photo: PIL.Image.Image) -> Transpose | None:
    """What EXIF says of how the camera was held; None where that is nothing, or cannot be read."""
    try:
        # Not `ImageOps.exif_transpose`, which also writes EXIF anew and fails at any of its entries.
        return _TURNS.get(photo.getexif().get(_ORIENTATION, 1))
    except Exception:  # see above
        return None


def picture_of(file: str) -> str:
    """The small copy as HTML; nothing for a file of vectors, one that has gone since, or one that Pillow cannot read."""
    photo = thumbnail(file) if pathlib.PurePath(file).suffix.lower() in IMAGE_SUFFIXES else None
    if photo is None:
        return ""
    encoded = io.BytesIO()
    photo.save(encoded, "JPEG", quality=85)
    return page.image(encoded.getvalue(), pathlib.PurePath(file).name, "photo", kind="jpeg")
