"""The picture of the README: test scenes of `digits`, and the scenes whose embeddings are nearest to theirs.

python -m mulsupcon_tf.pretrain --dataset=digits --method=mulsupcon --workdir=runs/search
python -m tools.docs.search_picture runs/search --output=docs/search.png
"""

import dataclasses
import pathlib

import numpy as np

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.colours import BLUE, GREY, ORANGE
from mulsupcon_tf.utils.errors import InputError

QUERIES, NEAREST = 3, 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """Settings of `tools/docs/search_picture.py`."""

    output: str = dataclasses.field(default="docs/search.png", metadata={"help": "PNG file to write."})


def main(config: PictureConfig, workdirs: list[str]) -> None:
    """Writes the picture of one pretraining on digits."""
    from mulsupcon_tf.evaluation.nearest import nearest_rows
    from mulsupcon_tf.reporting.inputs import load_inputs

    if len(workdirs) != 1:
        raise InputError(f"One run directory of a pretraining on digits is needed. Received: {len(workdirs)}")
    inputs = load_inputs(workdirs)
    test = inputs.dataset.splits["test"]
    if inputs.pretrain is None or not isinstance(test.inputs, np.ndarray):
        raise InputError(f"The run must be a pretraining on digits. Received: {workdirs[0]}")
    # The first scenes with three digits: not chosen by how well they came out.
    queries = np.flatnonzero(test.labels.sum(axis=1) == 3)[:QUERIES]
    nearest = nearest_rows(inputs.pretrain.outputs["embedding"], queries, NEAREST)
    path = pathlib.Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file.replacing(path) as temporary:
        draw(temporary, test.inputs, test.labels.astype(bool), queries, nearest)
    print(f"picture: {path}")


def draw(path: pathlib.Path, scenes: np.ndarray, labels: np.ndarray, queries: np.ndarray, nearest: np.ndarray) -> None:
    """A row for each query: the query itself, then its nearest scenes with their digits, those of the query in colour.

    Args:
        path: PNG file.
        scenes: `[N, H, W, 1]` uint8.
        labels: `[N, C]` bool.
        queries: `[M]` rows of scenes.
        nearest: `[M, k]` rows of scenes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.55 * len(queries)), facecolor="white")
    columns = nearest.shape[1] + 1
    # A wider gap between a query and what it has found.
    panels = figure.subplots(
        len(queries),
        columns + 1,
        squeeze=False,
        width_ratios=[1, 0.25, *[1] * (columns - 1)],
        gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.91, "bottom": 0.06, "wspace": 0.08, "hspace": 0.3},
    )
    for axes, query, found in zip(panels, queries, nearest, strict=True):
        axes[1].set_axis_off()
        for panel, row in zip([axes[0], *axes[2:]], [query, *found], strict=True):
            colour = ORANGE if row == query else BLUE if (labels[row] & labels[query]).any() else GREY
            panel.imshow(scenes[row, :, :, 0], cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
            for side in panel.spines.values():
                side.set(color=colour, linewidth=3)
            _write_digits(panel, labels[row], labels[query], ORANGE if row == query else BLUE)
    panels[0, 0].set_title("query", fontsize=13)
    panels[0, 2].set_title("nearest by embedding", fontsize=13, loc="left")
    figure.savefig(path, format="png", dpi=160)


def _write_digits(panel, here: np.ndarray, wanted: np.ndarray, colour: str) -> None:
    """The digits of a scene below it: in colour and bold those of the query, grey the others."""
    digits = np.flatnonzero(here)
    for place, digit in enumerate(digits):
        shared = wanted[digit]
        panel.text(
            0.5 + 0.16 * (place - (len(digits) - 1) / 2),
            -0.04,
            str(digit),
            transform=panel.transAxes,
            va="top",
            ha="center",
            fontsize=12,
            color=colour if shared else GREY,
            weight="bold" if shared else "normal",
        )


if __name__ == "__main__":
    run_binary(PictureConfig, main, usage=__doc__, takes_files=True)
