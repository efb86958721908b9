"""The local page of `app`: a photo in, its labels and the most similar photos of a gallery out."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mulsupcon_tf.reporting.page import escape
from mulsupcon_tf.reporting.thumbnails import picture_of
from mulsupcon_tf.serving.model_inputs import Refused
from mulsupcon_tf.serving.served_model import DECISION_METRIC, ServedModel
from mulsupcon_tf.utils.optional_packages import require_gradio

EXAMPLES = 8
MOST_LABELS = 20  # that are shown of a photo, the most probable first
STYLE = """
.labels { display: grid; grid-template-columns: minmax(5rem, max-content) minmax(6rem, 1fr) 3.5rem; gap: .3rem .7rem; }
.labels .name { overflow-wrap: anywhere; } .labels .given { font-weight: 700; }
.labels .value { text-align: right; font-variant-numeric: tabular-nums; }
.labels .bar { position: relative; height: 1.1em; align-self: center; border-radius: 3px; background: rgba(128, 128, 128, .2); }
.labels .fill { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: #8a95a3; }
.labels .given + .bar .fill { background: #0072b2; }
.labels .threshold { position: absolute; top: -2px; bottom: -2px; width: 2px; background: #d55e00; }
.found { display: grid; grid-template-columns: repeat(auto-fill, minmax(110px, 1fr)); gap: .6rem; margin-top: .5rem; }
.found img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 4px; margin: 0; }
.found span { display: block; font-size: .78rem; line-height: 1.3; overflow-wrap: anywhere; }
.explained { margin-top: .6rem; font-size: .85rem; opacity: .75; }
"""

Find = Callable[[str], list[Mapping[str, Any]]]  # from a file to what `Search.records` says is nearest


def label_bars(model: ServedModel, probabilities: np.ndarray) -> str:
    """The labels of a photo as HTML: a bar for each probability, a mark at its threshold; those above it are blue and bold.

    Args:
        model: gives names and thresholds.
        probabilities: `[C]`.
    """
    given = set(model.given_labels(probabilities))
    thresholds = np.broadcast_to(model.thresholds[DECISION_METRIC], probabilities.shape)
    rows = []
    for label in np.argsort(-probabilities, kind="stable")[:MOST_LABELS]:
        name, value = model.label_names[label], 100 * float(probabilities[label])
        chosen = " given" if name in given else ""
        rows.append(
            f'<div class="name{chosen}">{escape(name)}</div><div class="bar"><div class="fill" style="width:{value:.1f}%"></div>'
            f'<div class="threshold" style="left:{100 * float(thresholds[label]):.1f}%"></div></div>'
            f'<div class="value">{value:.1f} %</div>'
        )
    hidden = len(probabilities) - MOST_LABELS
    more = f" {hidden} less probable labels are left out." if hidden > 0 else ""
    words = f"Bold: above the model's threshold, the orange mark.{more}"
    return f'<div class="labels">{"".join(rows)}</div><div class="explained">{escape(words)}</div>'


def found_tiles(nearest: Sequence[Mapping[str, Any]]) -> str:
    """What a search has found as HTML: small pictures with their names and cosines, the nearest first."""
    tiles = []
    for each in nearest:
        name = pathlib.PurePath(each["file"]).name
        words = f"{name}, {each['similarity']:.3f}"
        tiles.append(f"<div>{picture_of(each['file'])}<span>{escape(words)}</span></div>")
    return f'<h3>Most similar, the nearest first</h3><div class="found">{"".join(tiles)}</div>'


def answer(model: ServedModel, find: Find | None, file: str | None) -> tuple[str, str]:
    """What the page shows of a photo, as HTML: its labels, and the nearest photos.

    Args:
        model: of images.
        find: searches the gallery; None without one.
        file: an image; None where it was taken away.
    """
    if file is None:
        return "", ""
    refused = Refused()
    answers = list(model.answers([file], 1, refused))
    if not answers:
        return f'<p class="explained">{escape(refused.reasons[file])}</p>', ""
    return label_bars(model, answers[0][1]["probabilities"]), found_tiles(find(file)) if find else ""


def example_files(gallery: Sequence[str]) -> list[str]:
    """Some files of a gallery, from its beginning to its end."""
    positions = np.linspace(0, len(gallery) - 1, min(EXAMPLES, len(gallery))).astype(int)
    return [gallery[position] for position in dict.fromkeys(positions.tolist())]


def build_page(model: ServedModel, find: Find | None, examples: Sequence[str]) -> Any:
    """The page.

    Args:
        model: of images.
        find: searches the gallery; None without one.
        examples: image files to choose from.

    Returns:
        A `gradio.Blocks` that is not running yet.

    Raises:
        InputError: gradio is not installed.
    """
    gradio = require_gradio()
    with gradio.Blocks(title="mulsupcon_tf", analytics_enabled=False) as page:
        gradio.Markdown(f"# Labels of a photo\nModel: `{model.directory}`, {len(model.label_names)} labels")
        with gradio.Row():
            with gradio.Column(min_width=300):
                # Without a mode the file comes as it is; of another mode gradio would write it anew, grey JPEGs with loss
                # and 16 bits as white, and the model would see another photo than `predict` does.
                photo = gradio.Image(
                    type="filepath", image_mode=None, label="Photo", height=320, sources=["upload", "clipboard"]
                )
                if examples:
                    small = [[os.path.abspath(file)] for file in examples]  # noqa: PTH100 paths are text here
                    gradio.Examples(small, photo, label="Or one of these", examples_per_page=EXAMPLES)
            with gradio.Column(min_width=300):
                labels = gradio.HTML(label="Labels")
        found = gradio.HTML(label="Most similar")
        photo.change(lambda file: answer(model, find, file), photo, [labels, found], api_name="label")
    return page


def serve(page: Any, host: str, port: int) -> None:
    """Runs the page until it is interrupted; nothing of it is fetched from elsewhere.

    Args:
        page: of `build_page`.
        host: address to listen at.
        port: of the address.
    """
    gradio = require_gradio()
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    settings = {"share": False, "ssr_mode": False, "css": STYLE, "theme": theme, "footer_links": [], "quiet": True}
    _, address, _ = page.launch(server_name=host, server_port=port, prevent_thread_lock=True, **settings)
    print(f"app: {address} (Ctrl-C ends it)", flush=True)
    page.block_thread()
