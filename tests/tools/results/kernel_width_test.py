import math

import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.experiments.table import read_results
from tests.helpers.hand_made_runs import SIZES, write_run
from tests.helpers.tiny_datasets import tiny_images, write_npz
from tools.results import kernel_width


def unit_rows(count, width, seed):
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_effective_positives_equal_a_loop_over_pairs():
    queries = unit_rows(12, 3, 0)
    labels = np.random.default_rng(1).integers(0, 2, (12, 3))
    labels[0] = 0  # no positive: left out
    for sigma, measured in kernel_width.kernel_widths(queries, labels):
        effective, zeros, pairs = [], 0, 0
        for i in range(12):
            others = [p for p in range(12) if p != i and (labels[i] & labels[p]).any()]
            if not others:
                continue
            exponents = [-np.sum((queries[p] - queries[i]) ** 2) / (2 * sigma**2) for p in others]
            raw = [math.exp(e - max(exponents)) for e in exponents]
            weights = [value / sum(raw) for value in raw]
            effective.append(math.exp(-sum(w * math.log(w) for w in weights if w > 0)))
            zeros += sum(np.exp(np.float32(e)) == 0 for e in exponents)
            pairs += len(others)
        assert measured["effective"] == pytest.approx(np.median(effective))
        assert measured["zero"] == pytest.approx(zeros / pairs)


def test_a_wide_kernel_counts_every_positive_and_a_narrow_one_the_nearest():
    found = dict(kernel_width.kernel_widths(unit_rows(60, 5, 2), np.ones((60, 2), int)))
    assert found[3.0]["effective"] == pytest.approx(59, rel=0.02) and found[3.0]["zero"] == 0
    assert found[0.01]["effective"] == pytest.approx(1, rel=0.02) and found[0.01]["zero"] > 0.9
    assert {measured["positives"] for measured in found.values()} == {59}


def test_the_tool_reads_the_runs_of_an_experiment(tmp_path, capsys):
    data = write_npz(tiny_images(sizes=SIZES), tmp_path / "data")
    write_run(tmp_path / "npz.rld.0.pretrain", data_dir=data, phase="pretrain", method="rld")
    output = tmp_path / "kernel.json"
    settings = {"runs": str(tmp_path), "output": str(output), "data_dir": str(data), "datasets": "npz", "seeds": "0"}
    kernel_width.main(kernel_width.KernelWidthConfig(**settings))
    labels = load_dataset("npz", data_dir=str(data)).splits["test"].labels
    embeddings = np.load(tmp_path / "npz.rld.0.pretrain" / "test_outputs.npz")["embedding"]
    expected = dict(kernel_width.kernel_widths(embeddings, labels))[1.0]["effective"]
    rows = read_results(output).rows
    (found,) = [row["value"] for row in rows if (row["metric"], row["rbf_sigma"]) == ("effective", "1")]
    assert found == pytest.approx(expected, abs=1e-6)
    assert f"| npz | 1 | {expected:.1f} |" in capsys.readouterr().out
