"""`--choose`: what has to be trained before a choice, whose value wins, and what the table says of it."""

import dataclasses
import json
import pathlib

import pytest

from mulsupcon_tf.experiments.choosing import candidates, with_choices
from mulsupcon_tf.experiments.collecting import collect
from mulsupcon_tf.experiments.lines import differences
from mulsupcon_tf.experiments.markdown import document
from mulsupcon_tf.experiments.plan import Plan, make_trials, parse_baseline
from mulsupcon_tf.experiments.table import read_results
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.hand_made_runs import SIZES, write_flags, write_run
from tests.helpers.scripts import run_script
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz

RATES = "learning_rate=1e-3,4e-3"
ASKED = {"seeds": "3,4", "choose": RATES}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tiny_images(sizes=SIZES), tmp_path_factory.mktemp("data"))


def plan(root, data=None, *, methods="bce,cld", grid="", **other):
    trials = make_trials("npz", methods, "3,4", grid)
    return Plan(pathlib.Path(root), data and str(data), trials, **({"flags": {}, "linear_probe": False} | other))


def folders(plan):
    return [run.directory.name for chain in plan.chains() for run in chain]


def written(plan, data, scores):
    """All runs of a plan, finished; `scores` has the validation mAP of the classifiers whose name has the key."""
    for number, run in enumerate(run for chain in plan.chains() for run in chain):
        if run.directory.exists():
            continue
        method = run.directory.name.split(".")[1]
        write_run(run.directory, data_dir=data, phase=run.phase, method=method, seed=number)
        write_flags(run)
        if run.phase == "finetune":
            file = run.directory / "summary.json"
            summary = json.loads(file.read_text())
            summary["val"]["mAP"] = next((scores[key] for key in scores if key in run.directory.name), 0.0)
            file.write_text(json.dumps(summary))


def test_the_first_seed_is_trained_with_every_combination_and_nothing_is_judged_by_search():
    needed = candidates(plan("runs", linear_probe=True, retrieval=True), RATES)
    assert folders(needed) == [
        "npz.bce.3.learning_rate=0.001.finetune",
        "npz.bce.3.learning_rate=0.004.finetune",
        "npz.cld.3.learning_rate=0.001.pretrain",
        "npz.cld.3.learning_rate=0.001.finetune",
        "npz.cld.3.learning_rate=0.004.pretrain",
        "npz.cld.3.learning_rate=0.004.finetune",
    ]
    arguments = needed.chains()[-1][0].arguments
    assert arguments[-1] == "--learning_rate=0.004"


def test_a_method_that_reads_no_setting_of_the_choice_has_no_candidates():
    needed = candidates(plan("runs", methods="bce,mulsupcon,rld"), "rbf_sigma=0.01,0.3")
    assert folders(needed)[::2] == ["npz.rld.3.rbf_sigma=0.01.pretrain", "npz.rld.3.rbf_sigma=0.3.pretrain"]


def test_each_method_gets_the_value_of_its_best_validation_map_for_all_seeds(tmp_path, data):
    whole = plan(tmp_path, data)
    needed = candidates(whole, RATES)
    scores = {
        "bce.3.learning_rate=0.001": 0.3,
        "bce.3.learning_rate=0.004": 0.4,
        "cld.3.learning_rate=0.001": 0.6,
        "cld.3.learning_rate=0.004": 0.6,  # of equal ones the first
    }
    written(needed, data, scores)
    chosen = with_choices(whole, needed)
    assert [(trial.method, trial.seed, dict(trial.chosen)["learning_rate"]) for trial in chosen.trials] == [
        ("bce", 3, "0.004"),
        ("cld", 3, "0.001"),
        ("bce", 4, "0.004"),
        ("cld", 4, "0.001"),
    ]
    written(chosen, data, {})
    results = collect(chosen, ASKED)
    assert results.grid == [] and {line: dict(of) for line, of in results.chosen["npz"].items()} == {
        "bce": {"learning_rate": "0.004"},
        "cld": {"learning_rate": "0.001"},
    }
    baseline = parse_baseline("method=bce")
    (line,) = differences(results, "npz", "finetune", "mAP", baseline)
    assert line == ("cld", ())  # although its rate is another than that of its baseline
    said = "Chosen on npz by validation mAP of seed 3, among {}: bce learning_rate=0.004{}; cld learning_rate=0.001{}."
    end = " (at an end of its range)"
    assert said.format(RATES, end, end) in document(results, baseline)
    wider = dataclasses.replace(results, settings={"seeds": "3,4", "choose": "learning_rate=1e-3,4e-3,8e-3"})
    assert said.format(wider.settings["choose"], "", end) in document(wider, baseline)
    (tmp_path / "results.json").write_text(results.as_json())
    assert read_results(tmp_path / "results.json").chosen == results.chosen


def test_lines_of_a_grid_choose_each_for_itself(tmp_path, data):
    whole = plan(tmp_path, data, methods="cld", grid="pretrain.epochs=2,9")
    needed = candidates(whole, RATES)
    written(needed, data, {"learning_rate=0.001,pretrain.epochs=2": 0.9, "learning_rate=0.004,pretrain.epochs=9": 0.9})
    chosen = {(trial.settings[0][1], trial.chosen[0][1]) for trial in with_choices(whole, needed).trials}
    assert chosen == {("2", "0.001"), ("9", "0.004")}


def test_a_choice_needs_all_candidates(tmp_path, data):
    whole = plan(tmp_path, data)
    with pytest.raises(InputError, match=r"every candidate finished\. Received: .*npz\.bce\.3\.learning_rate=0\.001"):
        with_choices(whole, candidates(whole, RATES))


def test_candidates_of_other_settings_are_not_chosen_among(tmp_path, data):
    """Nothing is run to find that out."""
    whole = plan(tmp_path, data)
    written(candidates(whole, RATES), data, {})
    for phase, flags in (("pretrain", ["--epochs=7"]), ("finetune", ["--patience=7"])):
        other = dataclasses.replace(whole, flags={phase: flags})
        with pytest.raises(InputError, match=rf"belongs to a run with other settings.* {flags[0][:-2]}: .*, 7 here"):
            with_choices(other, candidates(other, RATES))


@pytest.mark.parametrize(
    ("text", "other", "message"),
    [
        ("learning_rate", {}, "--choose must be NAME=VALUE"),
        ("learning_rat=1", {}, "nearest: 'learning_rate'"),
        ("alpha=0,1", {"grid": "alpha=0,1"}, "different settings. Received: 'alpha' in both"),
        (RATES, {"flags": {"finetune": ["--validation_fraction=0"]}}, "--validation_fraction must be above 0"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused_before_the_first_run(text, other, message):
    with pytest.raises(InputError, match=message):
        candidates(plan("runs", **other), text)


@pytest.mark.slow
def test_real_runs_choose_by_their_own_validation(tmp_path):
    data = write_npz(tiny_vectors(), tmp_path / "data")
    root = tmp_path / "runs"
    done = run_script(
        "mulsupcon_tf.experiment",
        *("--datasets=npz", f"--data_dir={data}", f"--workdir={root}", "--methods=bce,mulsupcon", "--seeds=0,1"),
        *("--choose=learning_rate=1e-6,1e-2", "--pretrain_flags=--max_steps=4", "--finetune_flags=--max_steps=4"),
    )
    assert done.returncode == 0, done.stderr
    for method in ("bce", "mulsupcon"):
        found = {
            rate: json.loads((root / f"npz.{method}.0.learning_rate={rate}.finetune" / "summary.json").read_text())
            for rate in ("1e-06", "0.01")
        }
        best = max(found, key=lambda rate: found[rate]["val"]["mAP"])
        assert read_results(root / "results.json").chosen["npz"][method] == {"learning_rate": best}
        assert [folder.name for folder in root.glob(f"npz.{method}.1.*.finetune")] == [
            f"npz.{method}.1.learning_rate={best}.finetune"
        ]
