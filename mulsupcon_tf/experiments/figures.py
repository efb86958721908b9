"""The figures of an experiment, each as the bytes of a PNG; drawn from the results alone, without the runs."""

import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from mulsupcon_tf.evaluation.metrics import FREQUENCY_GROUPS
from mulsupcon_tf.experiments.lines import (
    BLIND_TITLES,
    Line,
    headline,
    lines_of,
    plain_method,
    protocol_of,
    title_of,
)
from mulsupcon_tf.experiments.markdown import PHASES, metric_title
from mulsupcon_tf.experiments.paired_tests import deviation_of
from mulsupcon_tf.experiments.retrieval import ONE_LIST
from mulsupcon_tf.experiments.table import CURVES, Results, datasets_of
from mulsupcon_tf.utils.colours import BLUE, GREY, GROUP_COLOURS, ORANGE, PALE, VERMILLION
from mulsupcon_tf.utils.wording import points

_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "legend.frameon": False,
    "text.parse_math": False,
}
_MARKERS = "os^DvPX<>*"
_AXIS_TITLES = {"contrastive_loss": "contrastive loss a positive", "val_mAP": "mAP on validation"}
_styled = matplotlib.rc_context(_STYLE)


def draw_all(results: Results) -> dict[str, bytes]:
    """Every figure that the results have something for, by name without suffix."""
    figures = {}
    for dataset in datasets_of(results):
        for phase in PHASES:
            metric = headline(results, dataset, phase)
            lines = _metric_of(results, dataset, phase, metric)
            lines.pop(
                (BLIND_TITLES[ONE_LIST], ()), None
            )  # so far below that the others would look alike; tables have it
            if not lines:
                continue
            title = metric_title(phase, metric)
            figures[f"{dataset}.{phase}.{metric}"] = bars(lines, f"{title} on test (%)")
            for (method, first, second), grid in _grids(lines).items():
                figures[_map_name(dataset, phase, method, first, second)] = heat_map(
                    grid, first, second, f"{title} (%)"
                )
        for phase, curves in results.curves.get(dataset, {}).items():
            if any(curve["epoch"] for curve in curves.values()):
                figures[f"{dataset}.{phase}.curves"] = learning_curves(curves, _AXIS_TITLES[CURVES[phase]])
        labels = results.labels.get(dataset)
        if labels:
            for phase in PHASES:
                found = {
                    name.partition(" ")[0]: values
                    for name, values in labels["average_precision"].items()
                    if name.endswith(phase)
                }
                base = next((name for name in ("bce", "mulsupcon") if name in found), None)
                if base and len(found) > 1:
                    figures[f"{dataset}.{phase}.labels"] = label_differences(labels["frequency"], found, base)
    return figures


def heat_maps(results: Results, dataset: str, phase: str) -> list[str]:
    """Names of the heat maps that `draw_all` draws of one dataset and phase."""
    grids = _grids(_metric_of(results, dataset, phase, headline(results, dataset, phase)))
    return [_map_name(dataset, phase, *key) for key in grids]


def _map_name(dataset: str, phase: str, method: str, first: str, second: str) -> str:
    return f"{dataset}.{phase}.{method}.{first}-{second}"


def _metric_of(results: Results, dataset: str, phase: str, metric: str) -> dict[Line, list[float]]:
    lines = lines_of(results, dataset, phase)
    found = {line: list(measured.get((protocol_of(measured), metric), {}).values()) for line, measured in lines.items()}
    return {line: values for line, values in found.items() if values}


@_styled
def bars(lines: Mapping[Line, Sequence[float]], title: str) -> bytes:
    """A horizontal bar for each line: the mean, the sample standard deviation, and a dot for each seed.

    Args:
        lines: values between 0 and 1, one a seed.
        title: of the axis.
    """
    figure = Figure(figsize=(6.2, 0.8 + 0.32 * len(lines)), layout="constrained")
    axes = figure.subplots()
    for row, (line, values) in enumerate(lines.items()):
        points = 100 * np.asarray(values)
        deviation = deviation_of(points.tolist())
        colour = ORANGE if plain_method(line) in ("bce", *BLIND_TITLES.values()) else BLUE
        axes.barh(row, points.mean(), xerr=deviation, color=colour, alpha=0.55, height=0.66, error_kw={"capsize": 3})
        axes.scatter(points, np.full(len(points), row), color=colour, s=12, zorder=3)
    everything = 100 * np.concatenate([np.asarray(values) for values in lines.values()])
    margin = max(1.0, 0.3 * np.ptp(everything))
    # Bars that begin at 0 would hide every difference; the axis says where they begin.
    axes.set_xlim(max(0.0, everything.min() - margin), min(100.0, everything.max() + margin))
    axes.set_yticks(range(len(lines)), [title_of(line) for line in lines])
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_xlabel(f"{title}, axis cut", loc="right")  # room for it is on the left, under the names
    return _png(figure)


def _grids(
    lines: Mapping[Line, Sequence[float]],
) -> dict[tuple[str, str, str], dict[tuple[str, str], float]]:
    """Means over two settings of which both have three values at least, by method and their names."""
    grids: dict[tuple[str, str, str], dict[tuple[str, str], float]] = {}
    for (method, settings), values in lines.items():
        if len(settings) == 2:
            (first, row), (second, column) = settings
            grids.setdefault((method, first, second), {})[row, column] = statistics.fmean(values)
    return {key: grid for key, grid in grids.items() if all(len({cell[axis] for cell in grid}) > 2 for axis in (0, 1))}


@_styled
def heat_map(grid: Mapping[tuple[str, str], float], first: str, second: str, title: str = "mAP (%)") -> bytes:
    """A cell for each pair of settings, its value written in it.

    Args:
        grid: values between 0 and 1 by (value of `first`, value of `second`), as text.
        first: name of the setting of the rows.
        second: name of the setting of the columns.
        title: what the values are.
    """
    rows, columns = (sorted({cell[axis] for cell in grid}, key=_number) for axis in (0, 1))
    table = np.full((len(rows), len(columns)), np.nan)
    for (row, column), value in grid.items():
        table[rows.index(row), columns.index(column)] = 100 * value
    figure = Figure(figsize=(1.6 + 0.75 * len(columns), 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="cividis", aspect="auto")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    for row, column in np.argwhere(~np.isnan(table)):
        value = table[row, column]
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", color="white" if value < middle else "black")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=second, ylabel=first)
    figure.colorbar(image, label=title)
    return _png(figure)


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return 0.0, text


@_styled
def label_differences(
    frequencies: Sequence[float], precisions: Mapping[str, Sequence[float | None]], baseline: str
) -> bytes:
    """Average precision of each label minus that of a baseline, over how often the label occurs in train; a panel a method.

    Args:
        frequencies: C shares of the training samples.
        precisions: C average precisions by method, None for a label without a positive in test.
        baseline: one of the methods.
    """
    base = _with_nan(precisions[baseline])
    others = {name: _with_nan(values) for name, values in precisions.items() if name != baseline}
    x = 100 * np.maximum(np.asarray(frequencies), 0.5 * min(value for value in frequencies if value > 0))
    groups = np.array_split(np.argsort(-np.asarray(frequencies), kind="stable"), len(FREQUENCY_GROUPS))
    columns = min(3, len(others))
    rows = -(-len(others) // columns)
    figure = Figure(figsize=(3.1 * columns, 0.5 + 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(others) :]:
        axes.set_axis_off()
    for axes, (name, values) in zip(panels.flat, others.items(), strict=False):
        difference = values - base
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.scatter(x, 100 * difference, s=14, color=BLUE, alpha=0.5, linewidths=0)
        means = []
        for group, members in zip(FREQUENCY_GROUPS, groups, strict=True):
            known = members[~np.isnan(difference[members])]
            if known.size:
                mean = difference[known].mean()
                axes.hlines(100 * mean, x[members].min(), x[members].max(), color=VERMILLION, linewidth=2.2)
                means.append(f"{group} {points(mean)}")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if x.max() < 100 * x.min() else (1,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelbottom=True)
        axes.set_title(f"{name}\n{', '.join(reversed(means))}", fontsize=9)
        axes.grid(axis="y")
    figure.supxlabel("training samples with the label (%)", fontsize=10)
    figure.supylabel(f"AP minus that of {baseline} (points)", fontsize=10)
    return _png(figure)


def _with_nan(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


@_styled
def learning_curves(curves: Mapping[str, Mapping[str, Sequence[float]]], y_label: str) -> bytes:
    """A line a method over epochs.

    Args:
        curves: "epoch" and "value" by method; up to ten methods.
        y_label: of the axis.
    """
    figure = Figure(figsize=(6.2, 3.6), layout="constrained")
    axes: Axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        colour, marker = GROUP_COLOURS[number % len(GROUP_COLOURS)], _MARKERS[number % len(_MARKERS)]
        axes.plot(
            curve["epoch"],
            curve["value"],
            label=name,
            color=colour,
            marker=marker,
            markevery=0.12,
            markersize=5,
            linewidth=1.6,
        )
    axes.set(xlabel="epoch", ylabel=y_label)
    axes.grid(axis="y", color=PALE, linewidth=0.5)
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=9)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor="white")
    return buffer.getvalue()
