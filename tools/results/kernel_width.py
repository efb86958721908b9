"""How many keys the RBF kernel of `rld` really averages over, as its width σ grows: why σ 0.01 recovers little.

  python -m tools.results.kernel_width --runs=runs/main --datasets=scene,yeast --data_dir=DIR --output=kernel_width.json

Embeddings of the test split, from finished pretrainings of an experiment (runs/main/scene.rld.0.pretrain, ...). The positives
of a sample are the others that share a label with it. By the weights a_ip = softmax over them of −‖q_p − q_i‖² / 2σ² a
sample has exp( −Σ_p a_ip log a_ip ) effective positives: as many equal weights would have the same entropy.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.utils import atomic_file

SIGMAS = (0.01, 0.03, 0.1, 0.2, 0.3, 1.0, 3.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelWidthConfig(Validated):
    """Settings of `tools/results/kernel_width.py`."""

    runs: str = flag(None, "Folder of an experiment with pretrainings of rld. Required.")
    output: str = flag(None, "JSON file to write. Required.")
    data_dir: str | None = flag(None, "Folder of the datasets' files.")
    datasets: str = flag("scene,yeast", "Datasets, separated by commas.")
    seeds: str = flag("0,1,2", "Seeds, separated by commas.")


def main(settings: KernelWidthConfig) -> None:
    """Measures, writes the JSON file, prints the table."""
    require(settings, "runs", "output")
    from mulsupcon_tf.datasets.registry import load_dataset
    from mulsupcon_tf.experiments.plan import make_trials
    from mulsupcon_tf.experiments.table import Results, environment
    from mulsupcon_tf.training.run_directory import RunDirectory

    rows, directories = [], []
    for trial in make_trials(settings.datasets, "rld", settings.seeds, ""):
        directory = trial.directory(pathlib.Path(settings.runs), "pretrain")
        RunDirectory(directory).read_summary()
        directories.append(directory)
        labels = load_dataset(trial.dataset, data_dir=settings.data_dir).splits["test"].labels
        with np.load(RunDirectory(directory).test_outputs) as outputs:
            embeddings = outputs["embedding"]
        for sigma, measured in kernel_widths(embeddings, labels):
            rows += [
                {
                    "dataset": trial.dataset, "method": "rld", "seed": trial.seed, "rbf_sigma": f"{sigma:g}",
                    "phase": "kernel", "protocol": "", "metric": metric, "value": round(value, 6),
                }
                for metric, value in measured.items()
            ]  # fmt: skip
    asked = {"datasets": settings.datasets, "seeds": settings.seeds}
    results = Results(environment(directories), asked, ["rbf_sigma"], rows)
    atomic_file.write_text(pathlib.Path(settings.output), results.as_json())
    print(table(results))


def kernel_widths(embeddings: np.ndarray, labels: np.ndarray) -> Iterator[tuple[float, dict[str, float]]]:
    """What the kernel does at each of `SIGMAS`.

    Args:
        embeddings: `[N, D]` unit rows.
        labels: `[N, C]`, 0 or 1.

    Yields:
        σ, and medians over the samples that have a positive: "effective", how many positives count, and "positives",
        how many there are; and "zero", the share of pairs for which exp(−‖q_p − q_i‖² / 2σ²) is exactly 0 in float32.
    """
    positive = labels.astype(np.float64) @ labels.T > 0
    np.fill_diagonal(positive, False)
    rows = positive.any(axis=1)
    positive, embeddings = positive[rows], embeddings.astype(np.float64)
    distances = np.maximum(
        (embeddings[rows] ** 2).sum(axis=1)[:, None]
        + (embeddings**2).sum(axis=1)
        - 2 * embeddings[rows] @ embeddings.T,
        0,
    )
    for sigma in SIGMAS:
        exponents = -distances / (2 * sigma**2)
        logits = np.where(positive, exponents, -np.inf)
        logits -= logits.max(axis=1, keepdims=True)
        weights = np.exp(logits)
        weights /= weights.sum(axis=1, keepdims=True)
        entropies = -np.sum(weights * np.log(np.where(weights > 0, weights, 1)), axis=1)
        yield (
            sigma,
            {
                "effective": float(np.median(np.exp(entropies))),
                "positives": float(np.median(positive.sum(axis=1))),
                "zero": float(np.mean(np.exp(exponents[positive].astype(np.float32)) == 0)),
            },
        )


def table(results) -> str:
    """Markdown: a row a dataset and width, means over seeds."""
    from mulsupcon_tf.experiments.markdown import datasets_of, lines_of

    text = ["| dataset | σ | effective positives | of | kernel exactly 0 |", "|---|---|---|---|---|"]
    for dataset in datasets_of(results):
        for (_, settings), measured in lines_of(results, dataset, "kernel").items():
            means = {metric: np.mean(list(values.values())) for (_, metric), values in measured.items()}
            cells = f"{means['effective']:.1f} | {means['positives']:.0f} | {100 * means['zero']:.0f}%"
            text.append(f"| {dataset} | {settings[0][1]} | {cells} |")
    return "\n".join(text)


if __name__ == "__main__":
    run_binary(KernelWidthConfig, main, usage=__doc__)
