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
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.colours import BLUE, GREEN, GREY, ORANGE, PALE, VERMILLION

COLOURS = (BLUE, VERMILLION, GREEN, ORANGE)
DASHES = ("-", "--", "-.", ":")
KEYS, WIDTH = 2048, 128  # of the figure on the RBF kernel: the queue and the embedding of `digits`
_STYLE: Any = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.grid": True,
    "grid.color": "#e6e9ed", "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """Settings of `tools/docs/method_figures.py`."""

    output: str = dataclasses.field(default="docs/method", metadata={"help": "Folder of the PNG files."})


def label_weights_of_a_scene() -> Figure:
    """A scene, its true distribution as d, and the label weights for three ρ."""
    from mulsupcon_tf.losses.recovery import label_weights

    test = load_dataset("digits", data_dir=None).splits["test"]
    # The first scene of three digits whose largest has more than four times the ink of its smallest.
    assert test.distributions is not None and isinstance(test.inputs, np.ndarray)
    several = test.labels.sum(axis=1) == 3
    smallest = np.where(test.distributions > 0, test.distributions, 1).min(axis=1)
    row = int(np.flatnonzero(several & (test.distributions.max(axis=1) > 4 * smallest))[0])
    # Recovered distributions leak: a quarter of the mass lies evenly on all ten labels here.
    distribution = 0.75 * test.distributions[row : row + 1] + 0.25 / 10
    figure = Figure(figsize=(8.6, 2.9), layout="constrained")
    image, bars = figure.subplots(1, 2, width_ratios=(1, 2.6))
    image.imshow(test.inputs[row][..., 0], cmap="gray")
    image.set_axis_off()
    x = np.arange(10)
    bars.bar(x - 0.3, distribution[0], width=0.2, color=PALE, label="d, a quarter of it leaked")
    for number, (rho, colour) in enumerate(zip((0.0, 0.5, 1.0), COLOURS, strict=False)):
        weights = np.asarray(label_weights(distribution, test.labels[row : row + 1], rho=rho))[0]
        bars.bar(x - 0.1 + 0.2 * number, weights, width=0.2, color=colour, label=f"w, ρ = {rho:g}")
    bars.set(xticks=x, xlabel="label", ylabel="share, weight", ylim=(0, 1))
    bars.legend(ncols=2)
    return figure


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
    """Left the bare kernel in float32, right how many keys the normalised one still sees, among random unit vectors."""
    figure = Figure(figsize=(8.6, 3.3), layout="constrained")
    bare, seen = figure.subplots(1, 2)
    cosine = np.linspace(0.5, 1, 4000, dtype=np.float32)
    for sigma, colour, dash in zip((0.01, 0.03, 0.1, 0.3), COLOURS, DASHES, strict=True):
        kernel = np.exp((cosine - 1) / np.float32(sigma**2))
        kernel[kernel == 0] = np.nan
        bare.plot(cosine, kernel, color=colour, linestyle=dash, label=f"σ = {sigma:g}")
    smallest = float(np.finfo(np.float32).smallest_subnormal)
    bare.axhline(smallest, color=GREY, linewidth=1)
    bare.annotate(
        "smallest float32 above 0", (0.5, smallest), (4, 4), textcoords="offset points", fontsize=8.5, color=GREY
    )
    bare.set(
        yscale="log", xlabel="cosine of key and anchor", ylabel="exp(−‖k − q‖² / 2σ²)", xlim=(0.5, 1), ylim=(1e-47, 3)
    )
    bare.legend(fontsize=9)
    sigmas = np.geomspace(0.003, 1, 60)
    seen.plot(sigmas, [effective_keys(sigma) for sigma in sigmas], color=BLUE)
    seen.axvline(0.01, color=GREY, linestyle=":", linewidth=1.2)
    seen.annotate("default", (0.01, KEYS), (4, -10), textcoords="offset points", fontsize=8.5, color=GREY)
    seen.set(xscale="log", yscale="log", xlabel="σ", ylabel=f"keys that count, of {KEYS}", ylim=(0.8, 1.3 * KEYS))
    return figure


def effective_keys(sigma: float) -> float:
    """Perplexity, exp of the entropy, of the normalised kernel of one anchor over random unit keys; 1: a single key counts."""
    rows = np.random.default_rng(0).normal(size=(KEYS + 1, WIDTH))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    logits = rows[1:] @ rows[0] / sigma**2
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum()))


def key_momentum() -> Figure:
    """How many steps the key encoder looks back, constant and as a ramp."""
    from mulsupcon_tf.training.optimizers import MomentumRamp

    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = np.unique(np.geomspace(1, 20_000, 200).astype(int))
    ramp = MomentumRamp(0.999)
    values = {"--momentum_schedule=ramp": np.array([float(ramp(step)) for step in steps]),
              "--momentum_schedule=constant": np.full(len(steps), 0.999)}  # fmt: skip
    for (name, momentum), colour, dash in zip(values.items(), COLOURS, DASHES, strict=False):
        axes.plot(steps, 1 / (1 - momentum), color=colour, linestyle=dash, label=name)
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="steps that the keys look back, 1/(1 − m)")
    axes.legend()
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "label_weights.png": label_weights_of_a_scene,
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
