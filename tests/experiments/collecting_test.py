"""Whether a table is of the runs that the plan means and of the data that they saw: runs written by hand."""

import dataclasses
import json

import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation import resampling
from mulsupcon_tf.evaluation import results as evaluation
from mulsupcon_tf.evaluation.retrieval import judge_one_list
from mulsupcon_tf.experiments.collecting import collect
from mulsupcon_tf.experiments.markdown import HELD_OUT, PAPERS, document, protocol_text
from mulsupcon_tf.experiments.plan import Plan, make_trials
from mulsupcon_tf.experiments.run_data import RunData
from mulsupcon_tf.experiments.runner import is_finished, run_all
from mulsupcon_tf.experiments.table import read_results
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.hand_made_runs import SIZES, write_flags, write_retrieval, write_run
from tests.helpers.image_folders import write_jpeg
from tests.helpers.tiny_datasets import tiny_images, write_npz


def plan_of(root, data, *, dataset="npz", methods="bce,mulsupcon", seeds="0,1", retrieval=False, **flags):
    return Plan(
        root, str(data), make_trials(dataset, methods, seeds, ""), flags, linear_probe=False, retrieval=retrieval
    )


def finish(plan, **how):
    """Writes all trainings of a plan."""
    for trial in plan.trials:
        for run in plan.runs(trial):
            if run.phase != "retrieval":
                how |= {"dataset_name": trial.dataset, "method": trial.method, "seed": trial.seed}
                write_run(run.directory, data_dir=plan.data_dir, phase=run.phase, **how)
                write_flags(run)
    return plan


@pytest.fixture
def data(tmp_path):
    return write_npz(tiny_images(sizes=SIZES), tmp_path / "data")


def test_images_that_a_run_left_out_are_left_out_of_all_that_is_counted(tmp_path, data):
    rows = [f"{number}.jpg,{'sea' if number % 3 else 'beach;sky'}" for number in range(40)]
    for number in range(40):
        write_jpeg(tmp_path / "photos" / f"{number}.jpg", number)
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    stored = load_dataset("csv", data_dir=str(tmp_path / "photos")).splits
    bad = [stored[name].inputs.names[2] for name in ("train", "test")]
    train, test = (stored[name][np.arange(len(stored[name])) != 2] for name in ("train", "test"))
    flags = {"finetune": ["--skip_bad_images"]}
    plan = plan_of(tmp_path / "runs", tmp_path / "photos", dataset="csv", methods="bce", retrieval=True, **flags)
    for number, trial in enumerate(finish(plan, bad_images=bad).trials):
        folder = trial.directory(plan.root, "finetune")
        write_retrieval(folder, data_dir=data, seed=number, representation="features")
    results = collect(plan, {})
    judged = [json.loads((plan.root / f"csv.bce.{seed}.finetune/summary.json").read_text()) for seed in (0, 1)]
    of_runs = [row["value"] for row in results.rows if (row["protocol"], row["metric"]) == ("validation", "mAP")]
    assert of_runs == pytest.approx([summary["test"]["mAP"] for summary in judged], abs=1e-6)
    assert results.labels["csv"]["frequency"] == pytest.approx(train.labels.mean(0), abs=1e-5)
    one_list = [row["value"] for row in results.rows if (row["protocol"], row["metric"]) == ("one_list", "mAP")]
    assert one_list == pytest.approx(2 * [judge_one_list(test, train)["mAP"]["value"]], abs=1e-6)


def test_runs_on_other_data_are_not_taken_for_those_of_the_plan(tmp_path, data):
    plan = finish(plan_of(tmp_path / "runs", data))
    write_npz(tiny_images(sizes=SIZES, seed=1), data)
    for look in (lambda: collect(plan, {}), lambda: run_all(plan.chains(), parallel=1)):
        with pytest.raises(
            InputError,
            match=r"^the data must be those that .*npz\.bce\.0\.finetune saw, .*: other labels, other images",
        ):
            look()


def test_changed_data_are_allowed_where_the_runs_allow_them(tmp_path, data, caplog):
    allowed = {phase: ["--allow_changed_data"] for phase in ("pretrain", "finetune")}
    plan = finish(plan_of(tmp_path / "runs", data, **allowed))
    write_npz(tiny_images(sizes=SIZES, seed=1), data)
    assert run_all(plan.chains(), parallel=1) == [] and len(collect(plan, {}).rows) > 0
    assert "warning: the data are not those that" in caplog.text
    write_npz(tiny_images(sizes=SIZES | {"test": 20}), data)
    with pytest.raises(InputError, match=r"this test split, 20 samples. Received: 36 in"):
        collect(plan, {})


def test_runs_of_a_version_without_a_fingerprint_go_on_with_a_warning(tmp_path, data, caplog):
    plan = finish(plan_of(tmp_path / "runs", data, methods="bce"), fingerprint=False)
    assert len({row["seed"] for row in collect(plan, {}).rows}) == 2
    assert "npz.bce.1.finetune stored no fingerprint" in caplog.text


def test_runs_of_other_settings_are_not_tabulated_as_if_they_had_those_of_the_plan(tmp_path, data):
    plan = finish(plan_of(tmp_path / "runs", data))
    for phase in ("pretrain", "finetune"):
        with pytest.raises(InputError, match=r"belongs to a run with other settings.*--epochs: .* there, 7 here"):
            collect(dataclasses.replace(plan, flags={phase: ["--epochs=7"]}), {})


def test_the_same_files_are_read_once(tmp_path, data, monkeypatch):
    plan = finish(plan_of(tmp_path / "runs", data))
    read = []

    def counted(name, data_dir, **options):
        read.append(name)
        return load_dataset(name, data_dir, **options)

    monkeypatch.setattr("mulsupcon_tf.experiments.run_data.load_dataset", counted)
    collect(plan, {})
    own = RunData()
    assert all(is_finished(run, own) for chain in plan.chains() for run in chain)
    assert read == ["npz", "npz"]


STARRED = "Columns with a star choose thresholds on the test labels, as the paper did, and flatter."
APART, NOT_APART = "validation is kept apart", "no validation is kept apart"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", f"Held-out: {HELD_OUT}"),
        ("--threshold=per_label", f"Held-out: {HELD_OUT}"),
        ("--validation_fraction=0", f"Paper's protocol. {PAPERS}"),
        (
            "--threshold=0.5",
            f"Fixed thresholds: {APART}, the epoch is chosen there, and thresholds are 0.5, set beforehand. {STARRED}",
        ),
        (
            "--validation_fraction=0 --threshold=0.3",
            f"Fixed thresholds: {NOT_APART}, the last epoch is judged, and thresholds are 0.3, set beforehand. {STARRED}",
        ),
        (
            "--select_by=last",
            f"Held-out: {APART}, the last epoch is judged, and thresholds are chosen on validation. {STARRED}",
        ),
        (
            "--threshold=paper",
            f"OPTIMISTIC: {APART}, the epoch is chosen there, and thresholds, in columns with a star, are those that are best "
            "on the test labels.",
        ),
    ],
)
def test_the_protocol_is_said_as_the_runs_had_it(tmp_path, data, flags, expected):
    given = dict(flag.removeprefix("--").split("=") for flag in flags.split())
    how = {"validated": "validation_fraction" not in given, "threshold": given.get("threshold")}
    how |= {"selected_by": given["select_by"]} if "select_by" in given else {}
    plan = finish(plan_of(tmp_path / "runs", data, methods="bce", seeds="0", finetune=flags.split()), **how)
    results = collect(plan, {})
    assert protocol_text(results, "npz") == expected and expected in document(results, {"method": "bce"})
    (tmp_path / "results.json").write_text(results.as_json())
    assert read_results(tmp_path / "results.json") == results


def test_validation_that_pretrainings_were_trained_on_is_not_called_held_out(tmp_path, data):
    given = {"pretrain": ["--validation_fraction=0"]}
    results = collect(finish(plan_of(tmp_path / "runs", data, methods="bce,cld", seeds="0", **given)), {})
    apart = {"validation": True, "selected_by": "mAP", "threshold_policy": "validation"}
    assert results.protocols == {"npz": [apart, apart | {"pretrained_on_validation": True}]}
    told = "NOT HELD OUT: pretrainings were trained on validation, only fine-tunings were not."
    expected = f"Runs were judged in different ways. Held-out: {HELD_OUT} {told} For these: Held-out: {HELD_OUT}"
    assert protocol_text(results, "npz") == expected
    (tmp_path / "results.json").write_text(results.as_json())
    assert read_results(tmp_path / "results.json") == results
    both = given | {"finetune": ["--validation_fraction=0"]}
    plan = finish(plan_of(tmp_path / "both", data, methods="cld", seeds="0", **both), validated=False)
    assert protocol_text(collect(plan, {}), "npz") == f"Paper's protocol. {PAPERS}"


def test_two_ways_of_judging_are_both_said_and_of_no_classifier_nothing(tmp_path, data):
    plan = finish(plan_of(tmp_path / "runs", data, methods="cld", seeds="0"))
    results = collect(plan, {})
    apart, fixed = (
        {"validation": True, "selected_by": "mAP", "threshold_policy": name} for name in ("validation", "0.5")
    )
    text = protocol_text(dataclasses.replace(results, protocols={"npz": [apart, fixed]}), "npz")
    assert text.startswith("Runs were judged in different ways. Held-out: ") and " Fixed thresholds: " in text
    pretrained = collect(dataclasses.replace(plan, finetune=False), {})
    assert protocol_text(pretrained, "npz") == "" and "protocol" not in document(pretrained, {"method": "bce"})


def test_of_a_table_of_an_earlier_version_the_rows_tell_the_protocol(tmp_path, data):
    for number, (threshold, expected) in enumerate(
        ((None, f"Held-out: {HELD_OUT}"), ("paper", f"Paper's protocol. {PAPERS}"), ("0.5", ""))
    ):
        flags = [f"--threshold={threshold}"] if threshold else []
        plan = plan_of(tmp_path / str(number), data, methods="bce", seeds="0", finetune=flags)
        results = collect(finish(plan, threshold=threshold), {})
        assert protocol_text(dataclasses.replace(results, protocols={}), "npz") == expected


def test_nothing_is_drawn_for_thresholds_that_are_best_on_test(tmp_path, data, monkeypatch):
    plan = finish(plan_of(tmp_path / "runs", data, methods="bce", seeds="0"))
    drawn = [resampling.bootstrap_intervals, resampling.chance_results]
    for module in (resampling, evaluation):
        for function in drawn:
            monkeypatch.setattr(module, function.__name__, lambda *_, **__: pytest.fail("drawn"))
    found = {row["metric"]: row["value"] for row in collect(plan, {}).rows if row["protocol"] == "paper"}
    monkeypatch.undo()
    with np.load(tmp_path / "runs" / "npz.bce.0.finetune" / "test_outputs.npz") as outputs:
        test = load_dataset("npz", data_dir=str(data)).splits["test"].labels, outputs["probabilities"]
    expected = evaluation.evaluate_splits({"test": test}, "paper")["test"]
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
