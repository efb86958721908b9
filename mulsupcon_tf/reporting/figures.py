"""The figures of a report, each as the bytes of a PNG.

Colours are those of Okabe and Ito, which most colour-blind people can tell apart; shape, dash, hatch or text repeats
what a colour says.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator

from mulsupcon_tf.reporting.fonts import families
from mulsupcon_tf.utils.colours import BLUE, DARK, GREEN, GREY, GROUP_COLOURS, ORANGE, PALE, VERMILLION

GROUP_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
MAX_BARS = 12
MAX_ROWS = 25
_DPI = 170
_STYLE: Any = {
    "font.size": 10.5,
    "font.family": families(),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#1d2530",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "text.parse_math": False,  # a label may hold a dollar sign
}


_styled = matplotlib.rc_context(_STYLE)  # as a decorator: the style holds while the function runs


def _new_figure(width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # in each figure anew; `write_report` says it once
        figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


@_styled
def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, y_label: str, dashed: Sequence[str] = ()
) -> bytes:
    """Lines over epochs.

    Args:
        lines: (epochs, values) by name; up to five.
        y_label: of the axis.
        dashed: names of the lines to dash.
    """
    figure, (axes,) = _new_figure(4.6, 3.1)
    styles = zip((BLUE, VERMILLION, ORANGE, GREEN, GREY), "os^Dv", strict=True)
    for (name, (epochs, values)), (colour, marker) in zip(lines.items(), styles, strict=False):
        many = len(epochs) > 40
        axes.plot(
            epochs,
            values,
            label=name,
            color=colour,
            linestyle="--" if name in dashed else "-",
            linewidth=1.7,
            marker=None if many else marker,
            markersize=4.5,
            markerfacecolor="white" if name in dashed else colour,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.set(xlabel="epoch", ylabel=y_label)
    if len(lines) > 1:
        _legend_above(axes, columns=2)
    return _png(figure)


def _legend_above(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=1.4,
    )


@_styled
def average_precision_by_frequency(
    frequencies: np.ndarray, series: Mapping[str, Sequence[float | None]], label_names: Sequence[str]
) -> bytes:
    """Average precision of each label over how often it occurs in train; the two runs of a label are joined by a line.

    Args:
        frequencies: `[C]`, shares of the training samples.
        series: C average precisions by run, None for a label without a positive; one or two runs.
        label_names: C names, written beside the points where there are at most 20.
    """
    figure, (axes,) = _new_figure(6.2, 3.9)
    values = {name: np.array([np.nan if v is None else v for v in column]) for name, column in series.items()}
    x = 100 * np.asarray(frequencies)
    known = ~np.isnan(next(iter(values.values())))
    low, high = np.min(list(values.values()), axis=0), np.max(list(values.values()), axis=0)
    axes.vlines(x[known], 100 * low[known], 100 * high[known], color=PALE, linewidth=2, zorder=1)
    for (name, column), colour, marker in zip(values.items(), (BLUE, VERMILLION), "oD", strict=False):
        axes.scatter(x[known], 100 * column[known], label=name, color=colour, marker=marker, s=34, zorder=2)
    axes.scatter(x[known], x[known], label="chance (the frequency itself)", color=GREY, marker="_", s=60, zorder=1)
    if len(label_names) <= 20:
        axes.margins(x=0.1)  # so that no name lies over the axis
        for index in np.flatnonzero(known):
            at = (x[index], 100 * high[index])
            axes.annotate(label_names[int(index)], at, (0, 6), textcoords="offset points", ha="center", fontsize=9)
    if x[x > 0].size and x.max() > 20 * x[x > 0].min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # powers of ten would be typeset, which `_styled` switches off
    axes.set(xlabel="training samples with the label (%)", ylabel="average precision (%)", ylim=(0, 106))
    _legend_above(axes, columns=3)
    return _png(figure)


@_styled
def recovered_against_true(truth: np.ndarray, candidates: Mapping[str, np.ndarray]) -> bytes:
    """Mean recovered share of a label in bins of its true share, beside the diagonal.

    Args:
        truth: `[M]` true shares of M (sample, label) pairs.
        candidates: `[M]` shares by name; up to three.
    """
    figure, (axes,) = _new_figure(4.6, 3.8)
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(truth, edges[1:-1]), 0, 9)
    counts = np.bincount(bins, minlength=10)
    filled = counts > 0
    centers = np.bincount(bins, truth, minlength=10)[filled] / counts[filled]
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1.5, label="truth")
    for (name, shares), colour, marker, dash in zip(
        candidates.items(), (BLUE, GREEN, VERMILLION), "o^D", ("-", "-", "--"), strict=False
    ):
        means = np.bincount(bins, shares, minlength=10)[filled] / counts[filled]
        axes.plot(centers, means, label=name, color=colour, marker=marker, linestyle=dash, markersize=5, linewidth=1.5)
    axes.set(xlabel="true share of the label", ylabel="mean recovered share", xlim=(0, 1), ylim=(0, 1.02))
    _legend_above(axes, columns=2)
    return _png(figure)


@_styled
def reliability(bins: Mapping[str, Sequence[Sequence[float]]]) -> bytes:
    """How many of the decisions of a bin have the label over their mean probability, beside the diagonal.

    Args:
        bins: by name, each [decisions, mean probability, share]; up to three names.
    """
    figure, (axes,) = _new_figure(4.6, 3.8)
    axes.plot([0, 1], [0, 1], color=PALE, linewidth=1.5, label="at their word")
    for (name, rows), colour, marker, dash in zip(
        bins.items(), (BLUE, VERMILLION, GREEN), "o^D", ("-", "--", "-"), strict=False
    ):
        _, probabilities, shares = zip(*rows, strict=True)
        axes.plot(
            probabilities, shares, label=name, color=colour, marker=marker, linestyle=dash, markersize=5, linewidth=1.5
        )
    axes.set(xlabel="mean probability", ylabel="share that has the label", xlim=(0, 1), ylim=(0, 1.02))
    _legend_above(axes, columns=1)
    return _png(figure)


@_styled
def example_bars(
    label_names: Sequence[str],
    present: np.ndarray,
    *,
    probabilities: np.ndarray | None,
    threshold: float | Sequence[float] | None,
    truth: np.ndarray | None,
    recovered: np.ndarray | None,
) -> bytes:
    """Bars of one sample, at most 12 labels: predicted probabilities above, shares below; what is None is left out.

    Args:
        label_names: C names.
        present: `[C]` bool, the sample's labels.
        probabilities: `[C]`.
        threshold: of decisions, one or C, drawn as a line or as one over each bar.
        truth: `[C]` true distribution.
        recovered: `[C]` recovered distribution.
    """
    shares = [(row, colour) for row, colour in ((truth, ORANGE), (recovered, BLUE)) if row is not None]
    importance = np.max([row for row in (probabilities, truth, recovered, present) if row is not None], axis=0)
    shown = np.sort(np.argsort(-importance, kind="stable")[:MAX_BARS])
    x = np.arange(len(shown))
    panels = (probabilities is not None) + bool(shares)
    names = [label_names[index] for index in shown]
    longest = max(map(len, names))
    # Names that stand aslant take their room from the bars, whose axis would no longer hold its own name.
    figure, axes = _new_figure(4.0, 0.5 + 1.05 * panels + (0.06 * min(longest, 20) if longest > 3 else 0), rows=panels)
    if probabilities is not None:
        here = present[shown].astype(bool)
        axes[0].bar(x[here], probabilities[shown][here], width=0.7, color=DARK)
        axes[0].bar(
            x[~here], probabilities[shown][~here], width=0.7, color="white", edgecolor=GREY, hatch="////", linewidth=0.6
        )
        if threshold is not None:
            heights = np.broadcast_to(threshold, len(label_names))[shown]
            axes[0].hlines(heights, x - 0.5, x + 0.5, color=VERMILLION, linewidth=1.2, linestyle=":")
        axes[0].set(ylabel="probability")
    width = 0.8 / max(len(shares), 1)
    for number, (row, colour) in enumerate(shares):
        axes[-1].bar(x + (number - (len(shares) - 1) / 2) * width, row[shown], width=width, color=colour)
        axes[-1].set(ylabel="share")
    for panel in axes:
        panel.set(ylim=(0, 1.02), yticks=(0, 0.5, 1))
    if longest <= 3:
        axes[-1].set_xticks(x, names)
    else:
        axes[-1].set_xticks(x, names, rotation=50, ha="right", rotation_mode="anchor")
    axes[-1].set(xlabel="label")
    return _png(figure)


@_styled
def shares_by_label(label_names: Sequence[str], shares: np.ndarray, equal: np.ndarray) -> bytes:
    """A row a label: its mean recovered share and, joined to it, its share if labels counted alike; at most 25 labels.

    Args:
        label_names: names of L labels, the first on top.
        shares: `[L]`.
        equal: `[L]`.
    """
    names, shares, equal = label_names[:MAX_ROWS], 100 * shares[:MAX_ROWS], 100 * equal[:MAX_ROWS]
    figure, (axes,) = _new_figure(5.6, 1.0 + 0.24 * len(names))
    y = np.arange(len(names))
    axes.hlines(y, np.minimum(shares, equal), np.maximum(shares, equal), color=PALE, linewidth=2, zorder=1)
    axes.scatter(shares, y, color=BLUE, marker="o", s=34, label="recovered", zorder=2)
    axes.scatter(equal, y, color=GREY, marker="|", s=60, label="if alike", zorder=2)
    axes.set(xlabel="mean share where the label is present (%)", xlim=(0, None), ylim=(len(names) - 0.4, -0.6))
    axes.set_yticks(y, names)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    _legend_above(axes, columns=2)
    return _png(figure)


def scene_png(pixels: np.ndarray) -> bytes:
    """An image `[H, W, 1 or 3]` uint8 as a PNG of that many pixels."""
    buffer = io.BytesIO()
    imsave(buffer, np.broadcast_to(pixels, (*pixels.shape[:2], 3)), format="png")
    return buffer.getvalue()


@_styled
def embedding_map(positions: np.ndarray, groups: np.ndarray, label_names: Sequence[str]) -> bytes:
    """Points in the plane; the ten most frequent groups have a colour and a shape each, the others are pale.

    Args:
        positions: `[M, 2]`.
        groups: `[M]` label index of each point.
        label_names: C names.
    """
    figure, (axes,) = _new_figure(5.2, 5.0)
    counts = np.bincount(groups, minlength=len(label_names))
    ranked = [int(index) for index in np.argsort(-counts, kind="stable")[: len(GROUP_COLOURS)] if counts[index]]
    others = ~np.isin(groups, ranked)
    axes.scatter(positions[others, 0], positions[others, 1], s=9, color=PALE, linewidths=0)
    # Colours follow the order of the labels, so that two maps of one dataset agree.
    for index, colour, marker in zip(sorted(ranked), GROUP_COLOURS, GROUP_MARKERS, strict=False):
        horizontal, vertical = positions[groups == index].T
        axes.scatter(
            horizontal, vertical, s=17, color=colour, marker=marker, alpha=0.8, linewidths=0, label=label_names[index]
        )
    axes.set(xlabel="t-SNE 1", ylabel="t-SNE 2", xticks=[], yticks=[])
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.06),
        ncols=5 if max(map(len, label_names)) <= 6 else 3,
        handletextpad=0.2,
        columnspacing=1.0,
        markerscale=1.6,
    )
    return _png(figure)
