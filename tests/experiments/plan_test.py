import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mulsupcon_tf.config.command_line import flag_values
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig
from mulsupcon_tf.experiments import runner
from mulsupcon_tf.experiments.plan import (
    Plan,
    Trial,
    make_trials,
    parse_baseline,
    parse_grid,
    require_baseline,
    settings_read_by,
    split_flags,
)
from mulsupcon_tf.utils.errors import InputError

ROOT = pathlib.Path("runs")


def plan(trials, **other):
    return Plan(ROOT, None, trials, **({"flags": {}, "linear_probe": False} | other))


def names(chains):
    return [[run.directory.name for run in chain] for chain in chains]


def test_without_a_grid_run_directories_have_dataset_method_seed_and_phase():
    trials = make_trials("scene,yeast", "bce,cld", "0,1", "")
    assert names(plan(trials, linear_probe=True).chains())[:3] == [
        ["scene.bce.0.finetune"],
        ["scene.cld.0.pretrain", "scene.cld.0.finetune", "scene.cld.0.probe"],
        ["yeast.bce.0.finetune"],
    ]
    assert len(trials) == 8 and [trial.seed for trial in trials] == [0] * 4 + [1] * 4


def test_a_grid_is_every_combination_in_shortest_form_and_in_order():
    assert parse_grid("beta=0,0.50 alpha=1e-2,1.0") == [
        {"beta": "0", "alpha": "0.01"},
        {"beta": "0", "alpha": "1"},
        {"beta": "0.5", "alpha": "0.01"},
        {"beta": "0.5", "alpha": "1"},
    ]
    assert parse_grid("") == [{}]


def test_a_number_of_a_grid_is_run_as_it_was_given():
    rates = ["0.00012345678", "0.0001234567", "1.2345678e-05", "1234567.0"]
    assert [each["learning_rate"] for each in parse_grid(f"learning_rate={','.join(rates)}")] == rates
    (trial,) = make_trials("scene", "cld", "0", "momentum=0.9999999")
    assert next(plan((trial,)).runs(trial)).settings().momentum == 0.9999999
    # Finished runs are found by their folders' names.
    texts = {
        "1e-4": "0.0001",
        "1e-5": "1e-05",
        "0.50": "0.5",
        "100000": "100000",
        "1000000": "1e+06",
        "0.123456": "0.123456",
    }
    assert [each["learning_rate"] for each in parse_grid(f"learning_rate={','.join(texts)}")] == list(texts.values())


def test_settings_stand_in_the_name_in_the_order_of_the_alphabet():
    first, second = (make_trials("scene", "cld", "0", grid)[0] for grid in ("beta=0 alpha=1", "alpha=1.0 beta=0.0"))
    assert first.directory(ROOT, "pretrain") == second.directory(ROOT, "pretrain")
    assert first.directory(ROOT, "pretrain").name == "scene.cld.0.alpha=1,beta=0.pretrain"


def test_a_flag_of_pretraining_goes_to_the_methods_that_read_it():
    flags = {"pretrain": ["--alpha=0.1", "--average", "anchor"]}
    runs = {}
    for method in ("cld", "mulsupcon", "any"):
        runs[method], *_ = Plan(ROOT, None, make_trials("scene", method, "0", ""), flags, linear_probe=False).chains()[
            0
        ]
    read = {method: (run.settings().alpha, run.settings().average) for method, run in runs.items()}
    assert read == {"cld": (0.1, "pair"), "mulsupcon": (1.0, "anchor"), "any": (1.0, "pair")}


def test_trials_that_differ_in_fine_tuning_alone_share_their_pretraining():
    trials = make_trials("scene", "cld", "0", "queue_size=64 finetune.epochs=5,10")
    (chain,) = plan(trials).chains()
    assert [run.directory.name for run in chain] == [
        "scene.cld.0.queue_size=64.pretrain",
        "scene.cld.0.finetune.epochs=5,queue_size=64.finetune",
        "scene.cld.0.finetune.epochs=10,queue_size=64.finetune",
    ]
    assert "--queue_size=64" in chain[0].arguments and not any("epochs" in argument for argument in chain[0].arguments)
    assert "--epochs=5" in chain[1].arguments and "--queue_size=64" not in chain[1].arguments
    assert "--pretrained=runs/scene.cld.0.queue_size=64.pretrain" in chain[2].arguments


def test_a_flag_of_both_phases_goes_to_both_unless_a_prefix_names_one():
    for grid, phases in (("batch_size=16", [True, True]), ("pretrain.batch_size=16", [True, False])):
        (chain,) = plan(make_trials("scene", "cld", "0", grid)).chains()
        assert ["--batch_size=16" in run.arguments for run in chain] == phases


def test_a_method_runs_once_over_settings_that_it_does_not_read():
    trials = make_trials("scene", "bce,mulsupcon,rld,cld", "0", "rbf_sigma=0.01,0.1 pretrain.epochs=5")
    assert [(trial.method, dict(trial.settings)) for trial in trials] == [
        ("bce", {}),
        ("mulsupcon", {"pretrain.epochs": "5"}),
        ("rld", {"rbf_sigma": "0.01", "pretrain.epochs": "5"}),
        ("cld", {"pretrain.epochs": "5"}),
        ("rld", {"rbf_sigma": "0.1", "pretrain.epochs": "5"}),
    ]
    assert settings_read_by("bce", {"label_fraction": "0.1", "alpha": "0"}) == (("label_fraction", "0.1"),)
    assert [len(settings_read_by(method, {"average": "anchor"})) for method in ("mulsupcon", "any")] == [1, 0]


def test_further_flags_go_to_their_phase_and_a_grid_wins_over_them():
    flags = {"pretrain": ["--epochs=3"], "finetune": ["--epochs=2", "--patience=1"]}
    trial = Trial("scene", "cld", 4, (("pretrain.epochs", "9"),))
    pretrain, finetune = plan((trial,), flags=flags).runs(trial)
    assert pretrain.settings() == PretrainConfig(dataset="scene", seed=4, method="cld", epochs=9)
    expected = FinetuneConfig(dataset="scene", seed=4, pretrained=str(pretrain.directory), epochs=2, patience=1)
    assert finetune.settings() == expected


FILE = """
--dataset=yeast
--method=cld
--seed=7
--pretrained=elsewhere
--linear_probe
--alpha=0.1
--batch_size=16
"""


def flags_of_file(tmp_path, *left_out):
    lines = [line for line in FILE.split() if line.lstrip("-").partition("=")[0] not in left_out]
    (tmp_path / "all.flags").write_text("\n".join(lines))
    return split_flags(f"--flagfile={tmp_path / 'all.flags'}")


def test_a_file_of_flags_changes_nothing_that_the_plan_sets(tmp_path):
    flags = {"pretrain": flags_of_file(tmp_path, "pretrained", "linear_probe")}
    for trial in make_trials("scene", "mulsupcon,all,cld", "0,1", ""):
        first, *_ = plan((trial,), flags=flags).runs(trial)
        alpha = {"cld": {"alpha": 0.1}}.get(trial.method, {})
        expected = {"dataset": "scene", "method": trial.method, "seed": trial.seed, "batch_size": 16}
        assert first.settings() == PretrainConfig(**expected, **alpha)
    flags = {"finetune": flags_of_file(tmp_path, "method", "alpha")}
    for method, pretrained in (("bce", None), ("cld", "runs/scene.cld.0.pretrain")):
        trials = make_trials("scene", method, "0", "")
        *_, tuned = plan(trials, flags=flags).runs(trials[0])
        assert tuned.settings() == FinetuneConfig(dataset="scene", batch_size=16, pretrained=pretrained)


def test_the_folder_of_a_run_is_the_plans_whatever_a_file_of_flags_says(tmp_path, monkeypatch):
    (tmp_path / "own.flags").write_text("--workdir=elsewhere\n")
    (run,) = plan(
        make_trials("scene", "bce", "0", ""), flags={"finetune": [f"--flagfile={tmp_path}/own.flags"]}
    ).chains()[0]
    started = []

    def start(command, **_):
        started.append(command)
        return subprocess.Popen([sys.executable, "-c", ""], stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(
        runner, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL, PIPE=subprocess.PIPE)
    )
    runner.run_all([[run]], 1)
    (command,) = started
    assert command[:3] == [sys.executable, "-m", "mulsupcon_tf.finetune"]
    assert flag_values(FinetuneConfig, command[3:])["workdir"].value == "runs/scene.bce.0.finetune"


@pytest.mark.parametrize(
    "flag",
    ["--seed=3", "-seed=3", "--method=cld", "--dataset=scene", "--workdir=a", "--pretrained=a", "--nolinear_probe"],
)
def test_further_flags_leave_to_the_plan_what_it_sets(flag):
    message = rf"^further flags must leave dataset, workdir, method, seed, .* sets them\. Received: {flag}$"
    with pytest.raises(InputError, match=message):
        split_flags(f"--epochs=3 {flag}")
    # A value is no flag, and of the folder of the data a phase may have its own.
    assert split_flags("--label_separator method --data_dir=a") == ["--label_separator", "method", "--data_dir=a"]


def test_a_linear_probe_is_a_fine_tuning_and_gets_its_further_flags():
    flags = {"finetune": ["--epochs=7", "--validation_fraction=0"]}
    *_, probe = plan(make_trials("scene", "cld", "0", ""), flags=flags, linear_probe=True).chains()[0]
    settings = probe.settings()
    assert (settings.linear_probe, settings.epochs, settings.validation_fraction) == (True, 7, 0)


def test_the_flags_of_bce_go_to_its_fine_tunings_after_those_of_all():
    flags = {"finetune": ["--epochs=2", "--patience=1"], "bce": ["--epochs=5"]}
    (tuned_alone,), (_, tuned) = plan(make_trials("scene", "bce,cld", "0", ""), flags=flags).chains()
    assert tuned_alone.settings() == FinetuneConfig(dataset="scene", epochs=5, patience=1)
    assert tuned.settings().epochs == 2


def searched(chain):
    """What each run of a chain searches by, or its phase."""
    return [run.representation or run.phase for run in chain]


def test_pretrainings_classifiers_and_raw_vectors_are_judged_as_search_engines():
    trials = make_trials("scene,digits", "bce,cld", "0", "")
    of_scene, chain, of_digits, _ = plan(trials, linear_probe=True, retrieval=True).chains()
    assert searched(of_scene) == ["finetune", "features", "probabilities", "raw"]
    assert searched(of_digits) == ["finetune", "features", "probabilities"]  # pixels are no baseline
    assert searched(chain) == ["pretrain", "embedding", "finetune", "features", "probabilities", "probe"]
    assert [run.directory for run in chain] == [chain[0].directory] * 2 + [chain[2].directory] * 3 + [
        chain[5].directory
    ]
    file = "runs/scene.cld.0.finetune/retrieval_probabilities.json"
    assert chain[4].arguments == ("--retrieval", "--representation=probabilities", f"--output={file}")
    assert (chain[0].binary, chain[1].binary) == ("pretrain", "evaluate")
    assert (chain[0].title, chain[1].title) == ("scene.cld.0.pretrain", "scene.cld.0.pretrain, search by embedding")


def test_what_judges_a_run_reads_its_data_and_takes_changed_ones_where_the_run_does():
    flags = {"pretrain": ["--allow_changed_data"], "finetune": ["--data_dir=moved"]}
    (chain,) = Plan(ROOT, "data", make_trials("scene", "cld", "0", ""), flags, False, retrieval=True).chains()
    data = [[argument for argument in run.arguments if "data" in argument] for run in chain if run.representation]
    assert data == [["--allow_changed_data", "--data_dir=data"], ["--data_dir=moved"], ["--data_dir=moved"]]
    for run in chain:
        if run.representation:
            assert flag_values(EvaluateConfig, run.arguments)["retrieval"].value


def test_without_fine_tuning_a_chain_ends_after_what_judges_the_pretraining_and_bce_is_trained_anyhow():
    trials = make_trials("digits", "bce,mulsupcon", "0,1", "average=pair,anchor")
    chains = Plan(ROOT, "data", trials, {"pretrain": ["--epochs=3"]}, False, finetune=False, retrieval=True).chains()
    assert [searched(chain) for chain in chains] == 2 * [
        ["finetune", "features", "probabilities"],
        ["pretrain", "embedding"],
        ["pretrain", "embedding"],
    ]
    assert all(run.arguments[-1] == "--data_dir=data" for chain in chains for run in chain if run.representation)
    (chain,) = plan(trials[1:2], finetune=False, linear_probe=True).chains()
    assert searched(chain) == ["pretrain", "probe"]


def test_trials_that_share_a_pretraining_judge_it_once():
    trials = make_trials("scene", "cld", "0", "finetune.epochs=5,10")
    (chain,) = plan(trials, retrieval=True).chains()
    classifier = ["finetune", "features", "probabilities"]
    assert searched(chain) == ["pretrain", "embedding", *classifier, *classifier]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("alpha", "NAME=VALUE"),
        ("alpha=", "NAME=VALUE"),
        ("alpha=0 alpha=1", "each name once"),
        ("alpa=1", "nearest: 'alpha'"),
        ("seed=1", "flags of pretrain or finetune"),
        ("finetune.alpha=1", "flags of pretrain or finetune"),
        ("alpha=-1", "--alpha must be at least 0"),
        ("alpha=half", "alpha"),
        ("cld_kernel=go", "must be one of softmax, negative, printed"),
    ],
)
def test_a_wrong_grid_is_refused_in_one_line(grid, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_grid(grid)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("methods", "seeds"), [("cdl", "0"), ("cld", "zero"), ("cld", "-1"), ("cld", "")])
def test_unknown_methods_and_seeds_are_refused(methods, seeds):
    with pytest.raises(InputError, match="Received"):
        make_trials("scene", methods, seeds, "")


@pytest.mark.parametrize(
    ("text", "received"),
    [
        ("method=nosuch", "method=nosuch, where the experiment has mulsupcon, cld"),
        ("method=bce", "method=bce, where the experiment has mulsupcon, cld"),
        ("alpha=3", "alpha=3, where the experiment has 0, 1"),
        ("pretrain.alpha=1", "pretrain.alpha=1, where the experiment has no value of it"),
        ("method=cld epochs=5", "epochs=5, where the experiment has no value of it"),
    ],
)
def test_a_baseline_that_no_trial_is_is_refused(text, received):
    trials = make_trials("scene", "mulsupcon,cld", "0", "alpha=0,1")
    with pytest.raises(InputError, match=rf"^--baseline must be among .*\. Received: {received}$"):
        require_baseline(parse_baseline(text), trials)


@pytest.mark.parametrize("text", ["", "method=mulsupcon", "alpha=1.0", "method=mulsupcon alpha=0"])
def test_a_baseline_that_a_trial_is_is_taken(text):
    require_baseline(parse_baseline(text), make_trials("scene", "mulsupcon,cld", "0", "alpha=0,1"))
