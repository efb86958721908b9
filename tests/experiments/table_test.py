"""Runs that were judged as search engines: runs and results written by hand, tabulated and compared."""

import dataclasses
import os

import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.retrieval import MEASURES, judge_one_list
from mulsupcon_tf.experiments.collecting import collect
from mulsupcon_tf.experiments.figures import draw_all
from mulsupcon_tf.experiments.lines import differences, headline
from mulsupcon_tf.experiments.markdown import baseline_title, document, results_table
from mulsupcon_tf.experiments.plan import Plan, make_trials, parse_baseline
from mulsupcon_tf.experiments.retrieval import read_retrieval
from mulsupcon_tf.experiments.run_data import RunData
from mulsupcon_tf.experiments.runner import is_finished, run_all
from mulsupcon_tf.experiments.table import Results, join, read_results
from mulsupcon_tf.training.run_directory import RunDirectory
from tests.helpers.hand_made_runs import SIZES, write_flags, write_retrieval, write_run
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz
from tools.results.page_sections import SECTIONS
from tools.results.results_page import EXPERIMENTS, page

MULSUPCON = "mulsupcon, embedding"
CLD = "cld, embedding"

SEEDS = (0, 1, 2)
BASELINE = parse_baseline("method=mulsupcon")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tiny_images(sizes=SIZES), tmp_path_factory.mktemp("data"))


def judged_plan(root, data, *, truth=True, grid=""):
    """A plan without fine-tuning whose pretrainings are finished and judged; its results by directory."""
    trials = make_trials("npz", "mulsupcon,cld", ",".join(map(str, SEEDS)), grid)
    plan = Plan(root, str(data), trials, {}, linear_probe=False, finetune=False, retrieval=True)
    found = {}
    for number, (pretrain, retrieval) in enumerate(plan.chains()):
        method = pretrain.settings().method
        folder = write_run(pretrain.directory, data_dir=data, phase="pretrain", method=method, seed=number)
        write_flags(pretrain)
        found[folder.name] = write_retrieval(retrieval.directory, data_dir=data, seed=number, truth=truth)
    return plan, found


@pytest.fixture(scope="module")
def judged(tmp_path_factory, data):
    return judged_plan(tmp_path_factory.mktemp("judged"), data)


@pytest.fixture(scope="module")
def results(judged):
    return collect(judged[0], {"baseline": "method=mulsupcon", "finetune": "False", "retrieval": "True"})


def in_percent(found, method, metric):
    return np.array([100 * found[f"npz.{method}.{seed}.pretrain"][metric]["value"] for seed in SEEDS])


def test_the_table_has_the_measures_of_every_pretraining(results, judged):
    rows = [row for row in results.rows if row["phase"] == "retrieval" and row["protocol"] != "one_list"]
    assert len(rows) == 2 * len(SEEDS) * len(MEASURES) and {row["protocol"] for row in rows} == {"embedding"}
    for row in rows:
        measured = judged[1][f"npz.{row['method']}.{row['seed']}.pretrain"]
        assert row["value"] == pytest.approx(measured[row["metric"]]["value"], abs=1e-6)
    assert results.environment["runs"] == 2 * len(SEEDS)


def test_means_and_deviations_of_the_markdown_table_are_numpys(results, judged):
    header, _, mulsupcon, cld, one_list = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results_table(results, "npz", "retrieval").splitlines()
    ]
    titles = ["mAP@10", "nDCG@10 of labels", "dominant@10", "nDCG@10 of distributions"]
    assert header == ["method", "seeds", *titles] and [mulsupcon[0], cld[0]] == [MULSUPCON, CLD]
    assert one_list[0] == "one list for all"
    for cells in (mulsupcon, cld):
        values = [in_percent(judged[1], cells[0].split(",")[0], metric) for metric in MEASURES]
        assert cells[1:] == ["3", *(f"{np.mean(each):.1f} ± {np.std(each, ddof=1):.1f}" for each in values)]


def test_embeddings_are_compared_with_the_baseline_seed_by_seed(results, judged):
    text = document(results, BASELINE)
    assert "## npz, search" in text
    titles = {"mAP": "mAP@10", "ndcg_distributions": "nDCG@10 of distributions", "dominant": "dominant@10"}
    for metric, title in titles.items():
        difference = np.mean(in_percent(judged[1], "cld", metric) - in_percent(judged[1], "mulsupcon", metric))
        (found,) = differences(results, "npz", "retrieval", metric, BASELINE).values()
        assert 100 * found.mean == pytest.approx(difference, abs=1e-3) and found.pairs == 3
        assert f"| {CLD} | {title} | 3 |" in text
    assert text.count(f"| {CLD} |") == 4  # its own line, and three differences


def searched_by(scores):
    """Results of made-up searches: mAP by method and representation, one a seed."""
    rows = [
        {
            "dataset": "d",
            "method": method,
            "seed": seed,
            "phase": "retrieval",
            "protocol": representation,
            "metric": "mAP",
            "value": value,
        }
        for (method, representation), values in scores.items()
        for seed, value in enumerate(values)
    ]
    return Results({}, {}, [], rows)


def test_bce_as_a_baseline_is_searched_by_what_scores_best():
    results = searched_by(
        {
            ("bce", "features"): (0.5, 0.6),
            ("bce", "probabilities"): (0.7, 0.6),
            ("bce", "raw"): (0.9, 0.9),
            ("cld", "embedding"): (0.8, 0.75),
            ("cld", "features"): (0.6, 0.45),
        }
    )
    bce = parse_baseline("method=bce")
    found = {line[0]: one.mean for line, one in differences(results, "d", "retrieval", "mAP", bce).items()}
    expected = {"bce, features": -0.1, "raw vectors": 0.25, CLD: 0.125, "cld, features": -0.125}
    assert found == pytest.approx(expected)
    assert baseline_title(bce, "retrieval") == "the better of bce's features and probabilities"
    assert [line.split(" | ")[0] for line in results_table(results, "d", "retrieval").splitlines()[2:]] == [
        f"| {name}" for name in ("bce, features", "bce, probabilities", CLD, "cld, features", "raw vectors")
    ]


def test_a_pretraining_as_a_baseline_is_searched_by_the_same_representation():
    results = searched_by(
        {
            ("cld", "embedding"): (0.8, 0.7),
            ("cld", "features"): (0.6, 0.5),
            ("mulsupcon", "embedding"): (0.6, 0.6),
            ("mulsupcon", "features"): (0.9, 0.9),
        }
    )
    found = differences(results, "d", "retrieval", "mAP", BASELINE)
    assert {line[0]: one.mean for line, one in found.items()} == pytest.approx({CLD: 0.15, "cld, features": -0.35})


def test_each_setting_is_compared_with_the_baseline_under_the_same_setting(tmp_path, data):
    plan, found = judged_plan(tmp_path, data, grid="queue_size=4,8")
    results = collect(plan, {})
    compared = differences(results, "npz", "retrieval", "dominant", BASELINE)
    for value in ("4", "8"):
        each = [
            [found[f"npz.{method}.{seed}.queue_size={value}.pretrain"]["dominant"]["value"] for seed in SEEDS]
            for method in ("cld", "mulsupcon")
        ]
        expected = np.mean(np.subtract(*each))
        assert compared[CLD, (("queue_size", value),)].mean == pytest.approx(expected, abs=1e-5)
    assert len(compared) == 2


def test_without_truth_the_page_says_over_how_many_samples_dominant_is(results, tmp_path):
    assert "dominant@10 is over" not in document(results, BASELINE)  # of all, by their true distributions
    unknown = write_npz(tiny_vectors(sizes=SIZES), tmp_path / "data")
    without_truth = collect(judged_plan(tmp_path / "runs", unknown, truth=False)[0], {})
    with np.load(unknown / "test.npz") as test:
        single = int((test["labels"].sum(1) == 1).sum())
    assert 1 < single < SIZES["test"]
    line = f"\n\ndominant@10 is over the samples that have one label: {single} test samples.\n\n| method |"
    assert line in document(without_truth, BASELINE)
    (tmp_path / "results.json").write_text(without_truth.as_json())
    again = read_results(tmp_path / "results.json")
    assert (
        again.queries
        == without_truth.queries
        == {"npz": {"mAP": SIZES["test"], "ndcg_labels": SIZES["test"], "dominant": single, "ndcg_distributions": 0}}
    )
    renamed = [{**row, "dataset": "other"} for row in again.rows]
    other = dataclasses.replace(again, rows=renamed, queries={"other": {"dominant": 1}})
    assert join([other, again]).queries == other.queries | again.queries
    assert "one label: 1 test sample.\n" in document(other, BASELINE)
    older = dataclasses.replace(without_truth, queries={})
    assert "dominant@10 is over" not in document(older, BASELINE)


def test_bars_are_of_ndcg_by_true_distributions_where_they_are_known_and_by_labels_elsewhere(results, tmp_path):
    assert draw_all(results)["npz.retrieval.ndcg_distributions"].startswith(b"\x89PNG")
    unknown = write_npz(tiny_vectors(sizes=SIZES), tmp_path / "data")
    without_truth = collect(judged_plan(tmp_path / "runs", unknown, truth=False)[0], {})
    assert headline(without_truth, "npz", "retrieval") == "ndcg_labels"
    figures = draw_all(without_truth)
    assert "npz.retrieval.ndcg_labels" in figures and "npz.retrieval.ndcg_distributions" not in figures
    assert "nDCG@10 of distributions" not in results_table(without_truth, "npz", "retrieval").splitlines()[0]


@pytest.mark.parametrize("grid", ["", "queue_size=4,8"])
def test_the_page_of_results_shows_a_committed_retrieval_and_its_figure(tmp_path, monkeypatch, data, grid):
    settings = {"baseline": "method=mulsupcon", "finetune": "False", "linear_probe": "False", "retrieval": "True"}
    results = collect(judged_plan(tmp_path / "runs", data, grid=grid)[0], settings)
    (tmp_path / "search.json").write_text(results.as_json())
    for name in SECTIONS:
        (tmp_path / f"{name}.flags").write_text((EXPERIMENTS / f"{name}.flags").read_text())
    monkeypatch.setattr("tools.results.results_page.EXPERIMENTS", tmp_path)
    monkeypatch.setattr("tools.results.results_page.TABLES", tmp_path)
    text = page()
    section = text[text.index(f"## {SECTIONS['search']}") :]
    section = section[: section.index("\n## ", 3)]
    assert "### npz, search" in section and "nDCG@10 of distributions against mulsupcon: " in section
    assert "With baseline method=mulsupcon, finetune False, retrieval True." in section
    assert results_table(results, "npz", "retrieval") in section and "<summary>Paired differences</summary>" in section
    assert "| mAP@10 | 3 |" in section and "| dominant@10 | 3 |" in section
    (figure,) = [line for line in section.splitlines() if line.startswith("![")]
    assert figure == "![npz.retrieval.ndcg_distributions](results/search.npz.retrieval.ndcg_distributions.png)"
    assert "npz.retrieval.ndcg_distributions" in draw_all(results)


def test_a_list_that_looks_at_no_query_stands_in_the_table_once_and_without_settings(tmp_path, data):
    results = collect(judged_plan(tmp_path, data, grid="queue_size=4,8")[0], {})
    splits = load_dataset("npz", data_dir=str(data)).splits
    expected = 100 * judge_one_list(splits["test"], splits["train"])["mAP"]["value"]
    (line,) = [line for line in results_table(results, "npz", "retrieval").splitlines() if "one list" in line]
    assert line.startswith(f"| one list for all | 3 | {expected:.1f} ± 0.0 | ")


def test_a_pretraining_that_is_judged_is_not_judged_again(judged):
    chains = judged[0].chains()
    assert all(is_finished(run, RunData()) for chain in chains for run in chain)
    assert run_all(chains, parallel=1) == []


def test_a_pretraining_is_judged_again_where_the_file_is_not_what_an_experiment_asks_for(tmp_path, data):
    plan, _ = judged_plan(tmp_path, data)
    (pretrain, retrieval), *_ = plan.chains()
    directory = RunDirectory(retrieval.directory)
    whole = directory.retrieval.read_text()
    for asked in ({"neighbours": 5}, {"gallery": "test"}, {"split": "validation"}, {"representation": "features"}):
        write_retrieval(directory.path, data_dir=data, **asked)
        assert not is_finished(retrieval, RunData()), asked
    for damaged in (whole[: len(whole) // 2], "[]", "{}", whole.replace('"value": ', '"value": "x", "was": ')):
        directory.retrieval.write_text(damaged)
        assert not is_finished(retrieval, RunData()), damaged
    directory.retrieval.write_text(whole)
    assert is_finished(retrieval, RunData()) and read_retrieval(directory, "probabilities") is None
    os.utime(directory.retrieval, ns=(0, directory.summary_file.stat().st_mtime_ns - 1))  # of an earlier training
    assert (
        is_finished(pretrain, RunData())
        and not is_finished(retrieval, RunData())
        and read_retrieval(directory, "embedding") is None
    )
    assert len([row for row in collect(plan, {}).rows if row["protocol"] == "embedding"]) == 5 * len(MEASURES)
    directory.retrieval.unlink()
    assert not is_finished(retrieval, RunData())
