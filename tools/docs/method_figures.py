"""The figures of docs/method.md, drawn by the package's own functions.

python -m tools.docs.method_figures --output=docs/method
"""

import dataclasses
import io
import pathlib
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mulsupcon_tf.config.command_line import import_tensorflow_quietly, run_binary
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.choices import MOMENTUM, RBF_SIGMA
from mulsupcon_tf.utils.colours import BLUE, GREEN, GREY, ORANGE, VERMILLION

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE)
DASHES = ("-", "--", "-.", ":")
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """Settings of `tools/docs/method_figures.py`."""

    output: str = dataclasses.field(default="docs/method", metadata={"help": "Folder of the PNG files."})


def temperature() -> Figure:
    """How much a key counts in the softmax against one at cosine 1."""
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    cosine = np.linspace(-0.2, 1, 200)
    for value, colour, dash in zip((0.05, 0.1, 0.2, 0.5), COLOURS, DASHES, strict=True):
        axes.plot(cosine, np.exp((cosine - 1) / value), color=colour, linestyle=dash, label=f"τ = {value:g}")
    axes.set(xlabel="cosine of key and anchor", ylabel="share against a key at cosine 1", xlim=(-0.2, 1), ylim=(0, 1))
    axes.legend()
    return figure


def rbf_kernel() -> Figure:
    """Left the kernel of RLD in float32 over the cosine, right above which cosine it is not 0, over its width."""
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    kernels, limits = figure.subplots(1, 2)
    cosine = np.linspace(0.5, 1, 4000, dtype=np.float32)
    for sigma, colour, dash in zip((0.01, 0.03, 0.1, 0.3), COLOURS, DASHES, strict=True):
        kernel = np.exp((cosine - 1) / np.float32(sigma**2))
        kernel[kernel == 0] = np.nan
        kernels.plot(cosine, kernel, color=colour, linestyle=dash, label=f"σ = {sigma:g}")
    kernels.axhline(_SMALLEST, color=GREY, linewidth=1)
    kernels.annotate(
        "smallest float32 above 0", (0.5, _SMALLEST), (4, 4), textcoords="offset points", fontsize=8.5, color=GREY
    )
    kernels.set(
        yscale="log", xlabel="cosine of key and anchor", ylabel="exp(−‖z − k‖² / 2σ²)", xlim=(0.5, 1), ylim=(1e-47, 3)
    )
    kernels.legend(fontsize=9)
    sigmas = np.geomspace(0.003, 1, 200)
    limits.plot(sigmas, [vanishes_below(sigma) for sigma in sigmas], color=BLUE)
    limits.axvline(RBF_SIGMA, color=GREY, linestyle=":", linewidth=1.2)
    limits.annotate("default", (RBF_SIGMA, -0.98), (4, 0), textcoords="offset points", fontsize=8.5, color=GREY)
    limits.set(xscale="log", xlabel="σ", ylabel="cosine below which the kernel is 0", ylim=(-1.05, 1.05))
    return figure


def vanishes_below(sigma: float) -> float:
    """The cosine below which exp(−‖z − k‖² / 2σ²) between unit vectors is exactly 0 in float32; −1 where it never is."""
    # Half of the smallest number is rounded down to 0.
    return max(-1.0, 1.0 + sigma**2 * float(np.log(_SMALLEST / 2)))


def key_momentum() -> Figure:
    """How many steps the key encoder looks back, constant and as a ramp."""
    from mulsupcon_tf.optimizers.schedules import MomentumRamp

    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = np.unique(np.geomspace(1, 20_000, 200).astype(int))
    ramp = MomentumRamp(MOMENTUM)
    values = {
        "--momentum_schedule=ramp": np.array([float(ramp(step)) for step in steps]),
        "--momentum_schedule=constant": np.full(len(steps), MOMENTUM),
    }
    for (name, momentum), colour, dash in zip(values.items(), COLOURS, DASHES, strict=False):
        axes.plot(steps, 1 / (1 - momentum), color=colour, linestyle=dash, label=name)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="steps that the keys look back, 1/(1 − m)")
    axes.legend()
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "temperature.png": temperature,
    "rbf_kernel.png": rbf_kernel,
    "key_momentum.png": key_momentum,
}


def main(config: FiguresConfig) -> None:
    """Writes every figure."""
    import_tensorflow_quietly()
    folder = pathlib.Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in FIGURES.items():
        buffer = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            draw().savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
        with atomic_file.replacing(folder / name) as temporary:
            temporary.write_bytes(buffer.getvalue())
    print(f"{len(FIGURES)} figures: {folder}")


if __name__ == "__main__":
    run_binary(FiguresConfig, main, usage=__doc__)
