import pathlib

import pytest

from mulsupcon_tf.experiments.plan import Plan, Trial, make_trials, parse_grid, settings_read_by
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
    assert parse_grid("rho=0,0.50 alpha=1e-2,1.0") == [
        {"rho": "0", "alpha": "0.01"}, {"rho": "0", "alpha": "1"}, {"rho": "0.5", "alpha": "0.01"}, {"rho": "0.5", "alpha": "1"},
    ]  # fmt: skip
    assert parse_grid("") == [{}]


def test_settings_stand_in_the_name_in_the_order_of_the_alphabet():
    first, second = (make_trials("scene", "cld", "0", grid)[0] for grid in ("rho=0 alpha=1", "alpha=1.0 rho=0.0"))
    assert first.directory(ROOT, "pretrain") == second.directory(ROOT, "pretrain")
    assert first.directory(ROOT, "pretrain").name == "scene.cld.0.alpha=1,rho=0.pretrain"


def test_trials_that_differ_in_fine_tuning_alone_share_their_pretraining():
    trials = make_trials("scene", "cld", "0", "rho=0.5 finetune.epochs=5,10")
    (chain,) = plan(trials).chains()
    assert [run.directory.name for run in chain] == [
        "scene.cld.0.rho=0.5.pretrain",
        "scene.cld.0.finetune.epochs=5,rho=0.5.finetune",
        "scene.cld.0.finetune.epochs=10,rho=0.5.finetune",
    ]
    assert "--rho=0.5" in chain[0].arguments and not any("epochs" in argument for argument in chain[0].arguments)
    assert "--epochs=5" in chain[1].arguments and "--rho=0.5" not in chain[1].arguments
    assert "--pretrained=runs/scene.cld.0.rho=0.5.pretrain" in chain[2].arguments


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
    assert settings_read_by("bce", {"label_fraction": "0.1", "rho": "0"}) == (("label_fraction", "0.1"),)
    assert [len(settings_read_by(method, {"weigh_keys": "true"})) for method in ("mulsupcon", "any")] == [1, 0]


def test_further_flags_go_to_their_phase_and_a_grid_wins_over_them():
    flags = {"pretrain": ["--epochs=3"], "finetune": ["--epochs=2", "--patience=1"]}
    trial = Trial("scene", "cld", 4, (("pretrain.epochs", "9"),))
    pretrain, finetune = plan((trial,), flags=flags).runs(trial)
    assert pretrain.settings() == {"dataset": "scene", "seed": "4", "method": "cld", "epochs": "9"}
    assert finetune.settings() == {
        "dataset": "scene", "seed": "4", "pretrained": str(pretrain.directory), "epochs": "2", "patience": "1",
    }  # fmt: skip


def test_the_flags_of_bce_go_to_its_fine_tunings_after_those_of_all():
    flags = {"finetune": ["--epochs=2", "--patience=1"], "bce": ["--epochs=5"]}
    (tuned_alone,), (_, tuned) = plan(make_trials("scene", "bce,cld", "0", ""), flags=flags).chains()
    assert tuned_alone.settings() == {"dataset": "scene", "seed": "0", "epochs": "5", "patience": "1"}
    assert tuned.settings()["epochs"] == "2"


def test_a_pretraining_is_judged_as_a_search_engine_before_it_is_tuned():
    trials = make_trials("scene", "bce,cld", "0", "")
    tuned_alone, chain = plan(trials, linear_probe=True, retrieval=True).chains()
    assert [run.phase for run in tuned_alone] == ["finetune"]
    assert [run.phase for run in chain] == ["pretrain", "retrieval", "finetune", "probe"]
    assert chain[1].directory == chain[0].directory and chain[1].arguments == ("--retrieval",)
    assert (chain[0].binary, chain[1].binary) == ("pretrain", "evaluate")
    assert (chain[0].title, chain[1].title) == ("scene.cld.0.pretrain", "scene.cld.0.pretrain, retrieval")


def test_without_fine_tuning_a_chain_ends_after_what_judges_the_pretraining():
    trials = make_trials("scene", "mulsupcon,cld", "0,1", "weigh_keys=false,true")
    chains = Plan(ROOT, "data", trials, {"pretrain": ["--epochs=3"]}, False, finetune=False, retrieval=True).chains()
    assert [[run.phase for run in chain] for chain in chains] == [["pretrain", "retrieval"]] * 8
    assert {chain[1].arguments for chain in chains} == {("--retrieval", "--data_dir=data")}
    (chain,) = plan(trials[:1], finetune=False, linear_probe=True).chains()
    assert [run.phase for run in chain] == ["pretrain", "probe"]


def test_trials_that_share_a_pretraining_judge_it_once():
    trials = make_trials("scene", "cld", "0", "finetune.epochs=5,10")
    (chain,) = plan(trials, retrieval=True).chains()
    assert [run.phase for run in chain] == ["pretrain", "retrieval", "finetune", "finetune"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("rho", "NAME=VALUE"),
        ("rho=", "NAME=VALUE"),
        ("rho=0 rho=1", "each name once"),
        ("rhoo=1", "nearest: 'rho'"),
        ("seed=1", "flags of pretrain or finetune"),
        ("finetune.rho=1", "flags of pretrain or finetune"),
        ("rho=2", "--rho must be at most 1"),
        ("rho=half", "rho"),
        ("recovery_gradient=go", "must be one of stop, flow"),
    ],
)
def test_a_wrong_grid_is_told_in_one_line(grid, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_grid(grid)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("methods", "seeds"), [("cdl", "0"), ("cld", "zero"), ("cld", "-1"), ("cld", "")])
def test_unknown_methods_and_seeds_are_refused(methods, seeds):
    with pytest.raises(InputError, match="Received"):
        make_trials("scene", methods, seeds, "")
