"""The side of tensorflow-addons needs TensorFlow 2.15; what it gave stands in docs/why_not_addons.md."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, hamming_loss

from tests.helpers.forking import run_forked
from tests.helpers.scripts import REPOSITORY
from tools.addons import check_against_addons

PAGE = REPOSITORY / "docs" / "why_not_addons.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What this project's side writes."""
    path = tmp_path_factory.mktemp("addons") / "project.npz"
    done = run_forked("tools.addons.check_against_addons", "project", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def results(written):
    return dict(np.load(written))


def compare(addons, project):
    return run_forked("tools.addons.check_against_addons", "compare", addons, project)


def test_the_projects_metrics_on_that_data_are_scikit_learns(results):
    labels, probabilities = check_against_addons.metric_data()
    for threshold in check_against_addons.THRESHOLDS:
        predicted = probabilities > np.float32(threshold)
        for name, value in (
            ("F1Score macro", f1_score(labels, predicted, average="macro", zero_division=0)),
            ("F1Score micro", f1_score(labels, predicted, average="micro")),
            ("HammingLoss", hamming_loss(labels, predicted)),
        ):
            assert results[f"{name} | threshold {threshold}"] == pytest.approx(value, abs=1e-6)


def test_the_projects_adamw_is_the_papers_update(results):
    kernel, gradients = (values.astype("float64") for values in check_against_addons.optimizer_data())
    rate, decay = check_against_addons.RATE, check_against_addons.DECAY
    mean, square = np.zeros_like(kernel), np.zeros_like(kernel)
    for step, gradient in enumerate(gradients, 1):
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        kernel -= rate * decay * kernel
        # Keras adds epsilon before the bias of the second moment is corrected.
        correction = np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        kernel -= rate * correction * mean / (np.sqrt(square) + 1e-7)
    np.testing.assert_allclose(results["AdamW, same arguments | after 100 steps"], kernel, atol=2e-5)


def test_equal_results_pass_and_a_changed_one_fails(written, results, tmp_path):
    done = compare(written, written)
    assert done.returncode == 0, done.stderr
    assert "DIFFERS" not in done.stdout
    results["F1Score macro | threshold 0.5"] = results["F1Score macro | threshold 0.5"] + 1e-3
    np.savez(tmp_path / "changed.npz", **results)
    done = compare(tmp_path / "changed.npz", written)
    assert done.returncode == 1
    assert [line.split(" | ")[0] for line in done.stdout.splitlines() if "DIFFERS" in line] == [
        "| F1Score macro, threshold 0.5"
    ]


def test_results_on_other_data_are_not_compared(written, results, tmp_path):
    results["data kernel"] = results["data kernel"] + 1
    np.savez(tmp_path / "other.npz", **results)
    done = compare(tmp_path / "other.npz", written)
    assert done.returncode == 1
    assert "both must see the same data. Received: two versions of data kernel" in done.stderr


def test_the_page_has_a_row_for_each_result_with_todays_value(results):
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if "| " in line]
    shown = {row[0]: row for row in rows}
    for name in (name for name in results if " | " in name):
        _, addons, project, *_, verdict = shown[name.replace(" | ", ", ")]
        assert float(project) == pytest.approx(np.abs(results[name]).mean(), abs=2e-5)
        assert (verdict == "same") == (check_against_addons.TOLERANCES[name.split(" | ")[0]] is not None)
        if verdict == "same":
            assert float(addons) == pytest.approx(float(project), abs=2e-6)
