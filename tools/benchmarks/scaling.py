"""The section scaling: how the time of the loss core grows with keys, labels and anchors; draws WORKDIR/scaling.svg."""

import dataclasses
import pathlib
from collections.abc import Iterator

from tools.benchmarks.loss import Size, loss_step, seconds_of
from tools.benchmarks.measurement import Measurement

METHODS = ("mulsupcon", "cld", "rld")
BASE = Size()
SWEEPS = {
    "keys": (1024, 4096, 16_384, 65_536),
    "labels": (10, 50, 200, 1000),
    "batch": (32, 128, 512, 1024),
}
TITLES = {"keys": "keys K", "labels": "labels C", "batch": "anchors B"}


def measure(settings, base: Size = BASE, sweeps=SWEEPS) -> Iterator[Measurement]:
    """Milliseconds of each method over each sweep, the other sizes as in `base`."""
    least: dict[str, dict[str, list[float]]] = {name: {method: [] for method in METHODS} for name in sweeps}
    for name, values in sweeps.items():
        for value in values:
            size = dataclasses.replace(base, **{name: value})
            for method in METHODS:
                step = loss_step(size, method)
                times = [1e3 * seconds_of(step) for _ in range(settings.repeats)]
                least[name][method].append(min(times))
                yield Measurement("scaling", f"{method}, {size}", "ms", times, "forward and backward")
    draw(pathlib.Path(settings.workdir) / "scaling.svg", base, sweeps, least)


def draw(path: pathlib.Path, base: Size, sweeps, least) -> None:
    """One panel a sweep, both axes logarithmic; a dashed line of slope 1 shows what linear growth looks like.

    Args:
        path: of the picture.
        base: the sizes that do not grow.
        sweeps: values by name.
        least: milliseconds by name and method, the least disturbed of the repeats.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (name, values) in zip(
        figure.subplots(1, len(sweeps), sharey=True, squeeze=False)[0], sweeps.items(), strict=True
    ):
        for method in METHODS:
            axes.plot(values, least[name][method], marker="o", markersize=4, label=method)
        last = least[name]["cld"][-1]
        axes.plot(values, [last * value / values[-1] for value in values], "k--", linewidth=0.8, label="linear")
        axes.set(xscale="log", yscale="log", xlabel=TITLES[name])
        axes.set_xticks(values, [f"{value}" for value in values], minor=False)
        axes.minorticks_off()
        fixed = {"keys": base.keys, "labels": base.labels, "batch": base.batch}
        del fixed[name]
        axes.set_title(", ".join(f"{TITLES[other][-1]} {value}" for other, value in fixed.items()), fontsize=9)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("ms, forward and backward")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path)
