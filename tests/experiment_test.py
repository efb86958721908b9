"""The whole tool: real runs of two steps, and tables and figures of runs that were written by hand."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.metrics import average_precisions, macro_f1
from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.evaluation.thresholds import PAPER_THRESHOLD_GRID
from mulsupcon_tf.experiment import ExperimentConfig, main
from mulsupcon_tf.experiments.choosing import candidates, with_every_choice
from mulsupcon_tf.experiments.collecting import collect
from mulsupcon_tf.experiments.figures import draw_all, heat_map, heat_maps
from mulsupcon_tf.experiments.lines import differences
from mulsupcon_tf.experiments.markdown import (
    differences_table,
    distributions_table,
    document,
    protocol_text,
    results_table,
)
from mulsupcon_tf.experiments.plan import Plan, make_trials, parse_baseline
from mulsupcon_tf.experiments.run_data import RunData
from mulsupcon_tf.experiments.runner import is_finished, run_all
from mulsupcon_tf.experiments.table import Results, join, read_results
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.forking import run_forked
from tests.helpers.hand_made_runs import SIZES, write_flags, write_run
from tests.helpers.scripts import assert_one_line, run_script
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz

QUICK = ["--datasets=npz", "--seeds=0", "--pretrain_flags=--max_steps=2", "--finetune_flags=--max_steps=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_npz(tiny_images(sizes=SIZES), tmp_path_factory.mktemp("data"))


def hand_made_plan(root, data, *, methods="bce,mulsupcon,cld", seeds="0,1,2", grid="", validated=True):
    """A plan whose runs are all finished; each run has a seed of its own."""
    flags = {} if validated else {phase: ("--validation_fraction=0",) for phase in ("pretrain", "finetune")}
    plan = Plan(root, str(data), make_trials("npz", methods, seeds, grid), flags, linear_probe=False)
    number = 0
    for trial in plan.trials:
        for run in plan.runs(trial):
            if run.directory.exists():
                continue
            method = trial.method
            phase = "pretrain" if run.phase == "pretrain" else "finetune"
            write_run(run.directory, data_dir=data, phase=phase, method=method, seed=number, validated=validated)
            number += 1
            write_flags(run)
    return plan


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    return hand_made_plan(tmp_path_factory.mktemp("finished"), data)


@pytest.fixture(scope="module")
def results(finished):
    return collect(finished, {"methods": "bce,mulsupcon,cld"})


def value(results, **wanted):
    (found,) = [row["value"] for row in results.rows if all(row.get(key) == want for key, want in wanted.items())]
    return found


def test_the_table_has_one_row_a_run_protocol_and_metric(results):
    runs = {(row["method"], row["seed"], row["phase"]) for row in results.rows}
    assert len(runs) == 12  # three seeds of a fine-tuning each; and of cld's pretraining, which learnt distributions
    for method, seed, phase in runs:
        if phase == "finetune":
            rows = [row for row in results.rows if (row["method"], row["seed"], row["phase"]) == (method, seed, phase)]
            assert len(rows) == len({(row["protocol"], row["metric"]) for row in rows}) == 2 * (len(METRIC_NAMES) + 3)


def test_validation_protocol_is_the_summary_and_the_papers_is_the_best_threshold_on_test(results, finished, data):
    test = load_dataset("npz", data_dir=str(data)).splits["test"].labels
    for trial in finished.trials:
        directory = trial.directory(finished.root, "finetune")
        wanted = {"method": trial.method, "seed": trial.seed, "phase": "finetune"}
        summary = json.loads((directory / "summary.json").read_text())
        for metric in METRIC_NAMES:
            expected = summary["test"][metric]
            assert value(results, **wanted, protocol="validation", metric=metric) == pytest.approx(expected, abs=1e-6)
        probabilities = np.load(directory / "test_outputs.npz")["probabilities"]
        best = max(macro_f1(test, probabilities > threshold) for threshold in PAPER_THRESHOLD_GRID)
        assert value(results, **wanted, protocol="paper", metric="macro_f1") == pytest.approx(best, abs=1e-6)


def test_recovery_of_a_pretraining_is_in_the_table(results, finished):
    summary = json.loads((finished.root / "npz.cld.1.pretrain" / "summary.json").read_text())
    found = value(results, method="cld", seed=1, phase="pretrain", metric="recovered.kl_relevant")
    assert found == pytest.approx(summary["recovery"]["recovered"]["kl_relevant"], abs=1e-6)


def test_average_precision_of_a_label_is_the_mean_over_seeds(results, finished, data):
    test = load_dataset("npz", data_dir=str(data)).splits["test"].labels
    runs = [finished.root / f"npz.cld.{seed}.finetune" / "test_outputs.npz" for seed in range(3)]
    expected = np.mean([average_precisions(test, np.load(path)["probabilities"]) for path in runs], axis=0)
    np.testing.assert_allclose(results.labels["npz"]["average_precision"]["cld finetune"], expected, atol=1e-4)


def test_json_and_csv_hold_the_same_rows_and_json_reads_back(results, tmp_path):
    (tmp_path / "results.json").write_text(results.as_json())
    again = read_results(tmp_path / "results.json")
    assert again == results
    rows = list(csv.DictReader(results.as_csv().splitlines()))
    assert [float(row["value"]) for row in rows] == [row["value"] for row in again.rows]
    assert list(rows[0]) == results.columns


def test_means_and_deviations_of_the_markdown_table_are_numpys(results):
    lines = results_table(results, "npz", "finetune").splitlines()
    cells = [cell.strip() for cell in lines[-1].split("|")]
    values = [
        100 * value(results, method="cld", seed=s, phase="finetune", protocol="validation", metric="mAP")
        for s in range(3)
    ]
    assert cells[1:4] == ["cld", "3", f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"]
    assert "macro-F1*" in lines[0] and "mAP*" not in lines[0]
    assert "*" not in results_table(results, "npz", "finetune", starred=False)


def test_differences_pair_the_seeds_with_the_baseline_and_leave_it_out(results):
    found = differences(results, "npz", "finetune", "mAP", parse_baseline("method=mulsupcon"))
    assert [line[0] for line in found] == ["bce", "cld"]
    per_seed = [
        value(results, method="cld", seed=s, phase="finetune", protocol="validation", metric="mAP")
        - value(results, method="mulsupcon", seed=s, phase="finetune", protocol="validation", metric="mAP")
        for s in range(3)
    ]
    assert found["cld", ()].mean == pytest.approx(np.mean(per_seed))
    assert differences_table(results, "npz", "finetune", parse_baseline("method=mulsupcon")).count("\n") == 1 + 2 * 6


def test_a_setting_is_a_baseline_too_and_a_method_that_does_not_read_it_is_its_own(tmp_path, data):
    plan = hand_made_plan(tmp_path, data, methods="mulsupcon,cld", seeds="0,1", grid="alpha=0,0.5,1")
    results = collect(plan, {})
    assert list(results.grid) == ["alpha"]
    by_setting = differences(results, "npz", "finetune", "mAP", parse_baseline("alpha=0"))
    assert set(by_setting) == {("cld", (("alpha", "0.5"),)), ("cld", (("alpha", "1"),))}
    by_method = differences(results, "npz", "finetune", "mAP", parse_baseline("method=mulsupcon"))
    assert set(by_method) == {("cld", (("alpha", number),)) for number in ("0", "0.5", "1")}
    assert {difference.pairs for difference in by_method.values()} == {2}


def test_runs_that_kept_no_validation_are_compared_by_the_papers_protocol_and_called_optimistic(tmp_path, data):
    plan = hand_made_plan(tmp_path, data, methods="bce,cld", validated=False)
    results = collect(plan, {})
    assert {row["protocol"] for row in results.rows if row["phase"] == "finetune"} == {"paper"}
    assert "OPTIMISTIC" in protocol_text(results, "npz") and "OPTIMISTIC" in document(results, {"method": "bce"})
    head, _, _, cld = results_table(results, "npz", "finetune").splitlines()
    assert head.count("macro-F1") == 1 and "macro-F1*" in head and "| mAP |" in head
    values = [100 * value(results, method="cld", seed=s, phase="finetune", metric="macro_f1") for s in range(3)]
    assert cld.split("|")[5].strip() == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    (found,) = differences(results, "npz", "finetune", "mAP", parse_baseline("method=bce")).values()
    assert found.pairs == 3
    assert "npz.finetune.mAP" in draw_all(results)


def test_what_is_known_of_the_distributions_is_a_table(results, finished):
    lines = distributions_table(results, "npz").splitlines()
    assert lines[0].startswith("| method | mass off the labels (%) | KL of the truth on own labels |")
    folders = [finished.root / f"npz.cld.{seed}.pretrain" for seed in range(3)]
    leaks = [100 * json.loads((each / "metrics.jsonl").read_text().splitlines()[-1])["leak"] for each in folders]
    kls = [json.loads((each / "summary.json").read_text())["recovery"]["recovered"]["kl_relevant"] for each in folders]
    cells = [cell.strip() for cell in lines[2].split("|")[1:4]]
    assert cells[:2] == ["cld", f"{np.mean(leaks):.1f} ± {np.std(leaks, ddof=1):.1f}"]
    assert cells[2] == f"{np.mean(kls):.3f} ± {np.std(kls, ddof=1):.3f}"
    assert len(lines) == 3  # mulsupcon learns none


@pytest.mark.parametrize("text", ["mulsupcon", "method=", "=1"])
def test_a_baseline_is_a_name_and_a_value(text):
    with pytest.raises(InputError, match="--baseline must be NAME=VALUE"):
        parse_baseline(text)


def test_a_baseline_means_the_value_however_it_is_written():
    assert parse_baseline("method=cld alpha=1.0 beta=1e-3") == {"method": "cld", "alpha": "1", "beta": "0.001"}
    with pytest.raises(InputError, match="nearest: 'alpha'"):
        parse_baseline("alpa=1")


def test_every_figure_is_a_picture(results):
    figures = draw_all(results)
    assert {"npz.finetune.mAP", "npz.finetune.labels", "npz.finetune.curves"} <= set(figures)
    assert all(png.startswith(b"\x89PNG") for png in figures.values())


def test_a_heat_map_is_drawn_where_two_settings_have_three_values_each():
    rows = [
        {
            "dataset": "d",
            "method": "cld",
            "seed": 0,
            "alpha": alpha,
            "beta": beta,
            "phase": "finetune",
            "protocol": "validation",
            "metric": "mAP",
            "value": 0.5,
        }
        for alpha in ("0.1", "1", "10")
        for beta in ("1e-05", "0.001", "0.1")
    ]
    for given, maps in ((rows, ["d.finetune.cld.alpha-beta"]), (rows[:6], [])):
        results = Results({}, {}, ["alpha", "beta"], given)
        assert heat_maps(results, "d", "finetune") == maps
        assert [name for name in draw_all(results) if "alpha" in name] == maps
    assert heat_map({("0", "1"): 0.5}, "a", "b").startswith(b"\x89PNG")


def test_finished_runs_are_not_started_again(finished):
    assert all(is_finished(run, RunData()) for chain in finished.chains() for run in chain)
    times = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")}
    assert run_all(finished.chains(), parallel=2) == []
    assert {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")} == times


def test_a_moved_experiment_is_still_finished_and_other_settings_are_refused(finished, tmp_path):
    moved = shutil.copytree(finished.root, tmp_path / "moved")
    plan = Plan(moved, finished.data_dir, finished.trials, {}, linear_probe=False)
    assert all(is_finished(run, RunData()) for chain in plan.chains() for run in chain)
    plan = Plan(moved, finished.data_dir, finished.trials, {"finetune": ["--epochs=7"]}, linear_probe=False)
    with pytest.raises(InputError, match="--epochs: 100 there, 7 here"):
        run_all(plan.chains(), parallel=1)


def test_a_fine_tuning_of_an_encoder_that_was_made_again_is_refused(finished, tmp_path):
    moved = shutil.copytree(finished.root, tmp_path / "moved")
    chain = Plan(moved, finished.data_dir, finished.trials, {}, linear_probe=False).chains()[-1]
    before, run = (next(run for run in chain if run.phase == phase) for phase in ("pretrain", "finetune"))

    def note(of, **entries):
        path = of.directory / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    note(run, pretrained_sha256="a" * 64)
    assert is_finished(run, RunData())  # the pretraining is of a version that does not say what its encoder is
    note(before, encoder_sha256="a" * 64)
    assert is_finished(run, RunData())
    note(before, encoder_sha256="b" * 64)
    with pytest.raises(
        InputError, match=r"go on from the encoder of its pretraining; delete its folder.*Received: .*finetune, "
    ):
        is_finished(run, RunData())


def test_a_setting_that_the_run_had_and_the_call_leaves_out_is_refused(finished, tmp_path):
    """What it resolves to for the dataset is what it means."""
    run = next(run for chain in finished.chains() for run in chain if run.phase == "pretrain")
    flags = (run.directory / "flags.txt").read_text()
    for name, there, here in (
        ("epochs", "70", "400"),  # which leave the default warm-up as it is
        ("learning_rate", "0.5", "0.001"),
        ("weight_decay", "0.5", "0.0001"),
        ("max_steps", "2", "not set"),
        ("label_fraction", "0.5", "not set"),
    ):
        folder = shutil.copytree(run.directory, tmp_path / name)
        kept = [line for line in flags.splitlines() if not line.startswith(f"--{name}=")]
        (folder / "flags.txt").write_text("\n".join([*kept, f"--{name}={there}", ""]))
        with pytest.raises(
            InputError, match=rf"belongs to a run with .*Received: --{name}: {there} there, {here} here$"
        ):
            is_finished(dataclasses.replace(run, directory=folder), RunData())
        said = dataclasses.replace(run, directory=folder, arguments=(*run.arguments, f"--{name}={there}"))
        assert is_finished(said, RunData())


def test_a_run_that_is_older_than_a_setting_has_its_default(finished):
    run = next(run for chain in finished.chains() for run in chain if run.phase == "pretrain")
    assert is_finished(dataclasses.replace(run, arguments=(*run.arguments, "--cache=false")), RunData())
    with pytest.raises(InputError, match="--cache: false there, true here"):
        is_finished(dataclasses.replace(run, arguments=(*run.arguments, "--cache=true")), RunData())


def of_dataset(results, name, **environment):
    """The same results as if of another dataset, found elsewhere."""
    return dataclasses.replace(
        results,
        environment={**results.environment, **environment},
        settings={**results.settings, "datasets": name},
        rows=[row | {"dataset": name} for row in results.rows],
        labels={name: results.labels["npz"]},
        curves={name: results.curves["npz"]},
        protocols={name: results.protocols["npz"]},
    )


def test_results_of_other_datasets_join_in(results):
    one, two = of_dataset(results, "one", processor="A", cores=2), of_dataset(results, "two", processor="B", cores=2)
    joined = join([one, two])
    assert joined.rows == [*one.rows, *two.rows] and joined.settings == {**results.settings, "datasets": "one,two"}
    assert joined.labels == one.labels | two.labels and joined.curves == one.curves | two.curves
    assert joined.protocols == one.protocols | two.protocols
    assert joined.environment["processor"] == "A and B" and joined.environment["cores"] == "2"
    assert joined.environment["runs"] == 2 * results.environment["runs"]
    assert joined.environment["hours"] == pytest.approx(2 * results.environment["hours"], abs=0.01)
    assert joined.environment["versions"] == results.environment["versions"]
    for name, part in (("one", one), ("two", two)):
        assert results_table(joined, name, "finetune") == results_table(part, name, "finetune")
    assert join([one]) is one


def test_results_that_do_not_belong_together_are_refused(results):
    one = of_dataset(results, "one")
    with pytest.raises(InputError, match=r"of different datasets. Received: \[\['one'\], \['one'\]\]"):
        join([one, one])
    other = dataclasses.replace(of_dataset(results, "two"), settings={"methods": "any"})
    with pytest.raises(InputError, match=r"of the same settings\. Received: \{'methods': 'bce,mulsupcon,cld'\} and"):
        join([one, other])


def test_results_that_were_changed_by_hand_are_refused(results, tmp_path):
    file = tmp_path / "results.json"
    whole = json.loads(results.as_json())
    for name in whole:
        for value in (None, 7, "x", [None], {"x": None}):
            file.write_text(json.dumps(whole | {name: value}))
            with pytest.raises(InputError, match=r"results of an experiment must be readable|has no such entry"):
                join([read_results(file), of_dataset(results, "two")])
    file.write_text(json.dumps(whole | {"rows": [[*whole["rows"][0][:-1], "0.5"]]}))
    with pytest.raises(InputError, match="a row has no value"):
        read_results(file)


def test_the_tool_shows_another_table_with_its_own(finished, tmp_path):
    flags = [f"--workdir={finished.root}", f"--data_dir={finished.data_dir}", "--datasets=npz"]
    arguments = [*flags, "--methods=bce,mulsupcon,cld", "--seeds=0,1,2", "--collect_only"]
    done = run_forked("mulsupcon_tf.experiment", *arguments)
    assert done.returncode == 0, done.stderr
    alone = read_results(finished.root / "results.json")
    (tmp_path / "one.json").write_text(of_dataset(alone, "one").as_json())
    done = run_forked("mulsupcon_tf.experiment", *arguments, f"--add={tmp_path / 'one.json'}")
    assert done.returncode == 0, done.stderr
    both = read_results(finished.root / "results.json")
    assert len(both.rows) == 2 * len(alone.rows) and both.settings["datasets"] == "one,npz"
    done = run_forked("mulsupcon_tf.experiment", *arguments, f"--add={tmp_path / 'none.json'}")
    assert_one_line(done, "results of an experiment must be readable")


def test_tables_that_do_not_belong_together_are_refused_before_the_first_run(results, tmp_path):
    asked = ExperimentConfig(
        workdir=str(tmp_path / "runs"), datasets="npz", methods="bce", seeds="0", add=str(tmp_path / "a.json")
    )
    for other, message in (
        (dataclasses.replace(results, settings={}), r"of different datasets\. Received: \[\['npz'\], \['npz'\]\]"),
        (of_dataset(results, "one"), r"of the same settings\. Received: \{'methods': 'bce,mulsupcon,cld'\} and"),
    ):
        (tmp_path / "a.json").write_text(other.as_json())
        with pytest.raises(InputError, match=message):
            main(asked)
    assert not (tmp_path / "runs").exists()


def test_the_default_baseline_is_missed_in_a_line_and_another_is_refused(tmp_path, caplog):
    asked = {"workdir": str(tmp_path / "runs"), "datasets": "npz", "methods": "cld", "collect_only": True}
    with pytest.raises(InputError, match="a finished run"):
        main(ExperimentConfig(**asked))
    assert "warning: --methods is without bce, which --baseline is unless you say otherwise" in caplog.text
    with pytest.raises(
        InputError, match=r"--baseline must be among .* Received: method=any, where the experiment has cld"
    ):
        main(ExperimentConfig(**asked, baseline="method=any"))


def test_without_a_finished_run_there_is_nothing_to_tabulate(tmp_path, data):
    with pytest.raises(InputError, match=r"a finished run\. Received: none"):
        collect(Plan(tmp_path, str(data), make_trials("npz", "bce", "0", ""), {}, linear_probe=False), {})


def test_where_no_run_succeeds_the_reason_of_the_first_is_reported(tmp_path):
    flags = ("--datasets=scene", "--methods=mulsupcon", "--seeds=0", f"--data_dir={tmp_path / 'no'}")
    done = run_forked("mulsupcon_tf.experiment", f"--workdir={tmp_path / 'runs'}", *flags)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: Every run must succeed. Received: 1 that did not; scene.mulsupcon.0.pretrain: ")
    assert f"{tmp_path / 'no'}" in last


@pytest.mark.slow
def test_real_runs_are_tabulated_continued_and_one_that_fails_leaves_the_others_alone(tmp_path):
    data = write_npz(tiny_vectors(), tmp_path / "data")
    flags = [f"--data_dir={data}", f"--workdir={tmp_path / 'runs'}", *QUICK, "--methods=bce,cld", "--grid=alpha=0,0.5"]
    done = run_script("mulsupcon_tf.experiment", *flags, "--linear_probe", "--retrieval")
    assert done.returncode == 0, done.stderr
    results = read_results(tmp_path / "runs" / "results.json")
    phases = {
        "bce": {("finetune", protocol) for protocol in ("validation", "paper")},
        "cld": {(phase, protocol) for phase in ("finetune", "probe") for protocol in ("validation", "paper")},
    }
    for names in phases.values():
        names |= {("retrieval", representation) for representation in ("features", "probabilities")}
    phases["cld"] |= {("pretrain", ""), ("retrieval", "embedding")}
    phases["bce"].add(("retrieval", "one_list"))
    assert {(row["method"], row.get("alpha"), row["phase"], row["protocol"]) for row in results.rows} == {
        *(("bce", None, *phase) for phase in phases["bce"]),
        *(("cld", alpha, *phase) for alpha in ("0", "0.5") for phase in phases["cld"]),
    }
    for file, representation, phase in (
        ("retrieval.json", "embedding", "pretrain"),
        ("retrieval_probabilities.json", "probabilities", "finetune"),
    ):
        judged = json.loads((tmp_path / "runs" / f"npz.cld.0.alpha=0.5.{phase}" / file).read_text())
        found = value(results, method="cld", alpha="0.5", phase="retrieval", protocol=representation, metric="mAP")
        assert found == pytest.approx(judged["results"]["mAP"]["value"], abs=1e-6)
    shutil.rmtree(tmp_path / "runs" / "npz.cld.0.alpha=0.finetune")
    (tmp_path / "runs" / "npz.cld.0.alpha=0.pretrain" / "encoder.weights.h5").write_bytes(b"damaged")
    again = run_script("mulsupcon_tf.experiment", *flags)
    assert again.returncode == 1 and "1 that did not; npz.cld.0.alpha=0.finetune: error: --pretrained" in again.stderr
    assert (tmp_path / "runs" / "results.md").exists()


@pytest.mark.parametrize(
    ("settings", "message", "run"),
    [
        ({"finetune_flags": "--epoch=1"}, "Unknown command line flag 'epoch'", "cld.0.finetune"),
        ({"pretrain_flags": "--epochs=0"}, "--epochs must be at least 1. Received: --epochs=0", "cld.0.pretrain"),
        ({"bce_flags": "--head=none"}, "--head must be one of reuse, fresh. Received: --head=none", "bce.0.finetune"),
        (
            {"finetune_flags": "--loss=two_way --class_weights=balanced"},
            "belongs to --loss=bce or asl. Received: --loss=two_way",
            "cld.0.finetune",
        ),
        (
            {"grid": "loss=bce,two_way class_weights=balanced"},
            "belongs to --loss=bce or asl. Received: --loss=two_way",
            "cld.0.class_weights=balanced,loss=two_way.finetune",
        ),
        (
            {"choose": "loss=bce,two_way", "finetune_flags": "--class_weights=balanced", "linear_probe": True},
            "belongs to --loss=bce or asl. Received: --loss=two_way",
            "cld.0.loss=two_way.finetune",
        ),
        (
            {"choose": "alpha=0,1", "finetune_flags": "--unfreeze_from=stage3", "linear_probe": True},
            "--unfreeze_from trains a part of the backbone, --linear_probe none",
            "cld.0.alpha=0.probe",
        ),
        (
            {"pretrain_flags": "--validation_fraction=0"},
            "labels of validation leaves nothing held out. Received: --validation_fraction=0 of the one alone",
            "cld.0.finetune",
        ),
        (
            {
                "choose": "alpha=0,1",
                "pretrain_flags": "--validation_fraction=0",
                "finetune": False,
                "linear_probe": True,
            },
            "labels of validation leaves nothing held out. Received: --validation_fraction=0 of the one alone",
            "cld.0.alpha=0.probe",
        ),
    ],
)
def test_settings_of_later_trainings_are_refused_before_the_first_run(tmp_path, settings, message, run):
    methods = {"methods": "bce,cld", "seeds": "0,1"} if "bce_flags" in settings else {"methods": "cld", "seeds": "0,1"}
    others = {"datasets": "npz", "data_dir": str(tmp_path / "no"), "workdir": str(tmp_path / "runs")}
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        main(ExperimentConfig(**others, **methods, baseline=f"method={methods['methods'][:3]}", **settings))
    assert str(raised.value).endswith(f" (of npz.{run})") and "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_a_pretraining_without_labels_may_see_what_validation_is(tmp_path):
    flags = {"pretrain": ["--validation_fraction=0"]}
    Plan(tmp_path, None, make_trials("npz", "self,bce", "0", ""), flags, linear_probe=True).require_settings()


def test_what_a_choice_makes_valid_is_not_refused(tmp_path):
    """Without the choice the loss of all would be one that --class_weights does not belong to."""
    flags = {"finetune": ["--loss=two_way", "--class_weights=balanced"]}
    plan = Plan(tmp_path, None, make_trials("npz", "cld", "0,1", ""), flags, linear_probe=True)
    with pytest.raises(InputError):
        plan.require_settings()
    with_every_choice(plan, candidates(plan, "finetune.loss=bce,asl")).require_settings()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--workdir is required"),
        (["--workdir=w", "--methods=cdl"], "--methods must be among"),
        (["--workdir=w", "--grid=alpha=-1"], "--alpha must be at least 0"),
        (["--workdir=w", "--baseline=cld"], "--baseline must be"),
        (["--workdir=w", "--methods=cld", "--nofinetune"], "--nofinetune needs --retrieval or --linear_probe"),
        (["--workdir=w", "--nofinetune", "--linear_probe"], "--methods must be without it"),
        (["--workdir=w", "--nofinetune", "--retrieval", "--choose=alpha=0,1"], "--choose goes by validation mAP"),
    ],
)
def test_wrong_settings_get_one_line_and_leave_nothing_behind(tmp_path, flags, message):
    assert_one_line(run_script("mulsupcon_tf.experiment", *flags, cwd=tmp_path), message)
    assert not list(tmp_path.iterdir())
