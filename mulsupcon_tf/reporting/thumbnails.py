"""Small copies of image files, as they stand in a page."""

import io
import pathlib

import PIL.Image
import PIL.ImageOps

from mulsupcon_tf.datasets.base import IMAGE_SUFFIXES
from mulsupcon_tf.reporting import page

SIDE = 200


def thumbnail(file: str) -> PIL.Image.Image | None:
    """A copy that stands upright, its longer side at most `SIDE`; None for a file that is no image or has gone."""
    if pathlib.PurePath(file).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    try:
        with PIL.Image.open(file) as opened:
            opened.draft("RGB", (SIDE, SIDE))
            photo = PIL.ImageOps.exif_transpose(opened).convert("RGB")
    except OSError:
        return None
    photo.thumbnail((SIDE, SIDE))
    return photo


def picture_of(file: str) -> str:
    """The small copy as HTML; nothing for a file of vectors, or one that has gone since."""
    photo = thumbnail(file)
    if photo is None:
        return ""
    encoded = io.BytesIO()
    photo.save(encoded, "JPEG", quality=85)
    return page.image(encoded.getvalue(), pathlib.PurePath(file).name, "photo", kind="jpeg")
