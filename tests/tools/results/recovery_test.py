import importlib.util
import itertools

import numpy as np
import pytest

from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.distribution_distances import (
    kl_divergence,
    pair_concordance,
    smoothed_label_distribution,
    uniform_label_distribution,
)
from mulsupcon_tf.experiments.plan import Run
from mulsupcon_tf.experiments.table import read_results
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.hand_made_runs import write_flags, write_run
from tests.helpers.scripts import assert_one_line, run_script
from tools.results import recovery
from tools.results.label_enhancement import ALGORITHMS, Enhancement, enhance, enhance_all, parse_algorithms
from tools.results.recovery_candidates import controls, enhancement_input
from tools.results.recovery_markdown import MEASURES, RELEVANT, table, verdict

with_package = pytest.mark.skipif(
    importlib.util.find_spec("pyldl") is None, reason="needs pip install python-ldl==0.1.2"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, shared_data):
    """Pretrainings on a real set of label distribution learning, written by hand."""
    root = tmp_path_factory.mktemp("recovery")
    path = shared_data / "ldl" / "SJAFFE.mat"
    variants = itertools.product((0, 1), ("cld", "rld"), ("constant", "live"))
    for number, (seed, method, own) in enumerate(variants):
        folder = root / f"SJAFFE.{method}.{own}.{seed}.pretrain"
        write_run(folder, data_dir=path, phase="pretrain", method=method, seed=number, dataset_name="ldl")
        settings = {"method": method, "own_distribution": own, "dataset": "ldl", "data_dir": path, "seed": seed}
        write_flags(Run("pretrain", folder, tuple(f"--{name}={value}" for name, value in settings.items())))
    for seed in (0, 1):
        folder = root / f"SJAFFE.bce.{seed}.finetune"
        write_run(folder, data_dir=path, phase="finetune", method="bce", seed=seed, dataset_name="ldl")
        write_flags(Run("finetune", folder, ("--dataset=ldl", f"--data_dir={path}", f"--seed={seed}")))
    return root


@pytest.fixture(scope="module")
def dataset(shared_data):
    return load_dataset("ldl", data_dir=str(shared_data / "ldl" / "SJAFFE.mat"))


def test_the_tool_compares_what_the_runs_recovered_with_the_truth(runs, dataset, shared_data, capsys):
    settings = recovery.RecoveryConfig(
        workdir=str(runs), ldl_dir=str(shared_data / "ldl"), datasets="SJAFFE", seeds="0,1", enhancement=""
    )
    recovery.main(settings)
    test = dataset.splits["test"]
    results = read_results(runs / "results.json")
    found = {(row["method"], row["seed"], row["metric"]): row["value"] for row in results.rows}
    ours = {f"{method}, {own}: d" for method in ("cld", "rld") for own in ("constant", "live")}
    assert {key[0] for key in found} == ours | {"y/|y|", "1/C", "smoothed", "classifier"}
    for method, own, seed in (("cld", "constant", 0), ("rld", "live", 1)):
        path = runs / f"SJAFFE.{method}.{own}.{seed}.pretrain" / "test_outputs.npz"
        d, name = np.load(path)["distribution"].astype(np.float64), f"{method}, {own}: d"
        expected = kl_divergence(test.distributions, d, test.labels)
        assert found[name, seed, "kl_relevant"] == pytest.approx(expected, abs=2e-6)
        expected = pair_concordance(test.distributions, d, test.labels)
        assert found[name, seed, "pair_concordance"] == pytest.approx(expected, abs=2e-6)
    p = np.load(runs / "SJAFFE.bce.1.finetune" / "test_outputs.npz")["probabilities"]
    p = p / p.sum(axis=1, keepdims=True)
    assert found["classifier", 1, "kl"] == pytest.approx(kl_divergence(test.distributions, p), abs=2e-6)
    printed = capsys.readouterr().out
    assert "### SJAFFE" in printed and printed.index("| cld, constant: d |") < printed.index("| 1/C |")


def test_flags_of_digits_go_to_its_pretrainings(tmp_path):
    settings = recovery.RecoveryConfig(workdir="w", digits_flags="--epochs=2 --mixed_precision=bfloat16")
    (source,) = recovery._sources(settings)
    found = recovery._run(source, ("rld", "live"), "1", tmp_path).settings()
    expected = {"dataset": "digits", "seed": 1, "method": "rld", "own_distribution": "live"}
    assert found == PretrainConfig(**expected, epochs=2, mixed_precision="bfloat16")


@pytest.mark.parametrize(("flag", "value"), [("--cache", True), ("--nocache", False)])
def test_the_classifier_gets_the_flags_that_fine_tuning_has(tmp_path, flag, value):
    digits_flags = f"--monitor_every=0 --mixed_precision bfloat16 {flag}"
    (source,) = recovery._sources(recovery.RecoveryConfig(workdir="w", digits_flags=digits_flags))
    run = recovery._classifier(source, "1", tmp_path)
    assert run.settings() == FinetuneConfig(dataset="digits", seed=1, mixed_precision="bfloat16", cache=value)


def test_controls_see_standardised_vectors_of_train_and_test(runs, dataset):
    found = dict(controls(dataset, runs / "SJAFFE.cld.constant.0.pretrain"))
    train, test = dataset.splits["train"], dataset.splits["test"]
    np.testing.assert_allclose(found["y/|y|"], uniform_label_distribution(test.labels))
    np.testing.assert_allclose(found["1/C"], 1 / 6)
    inputs = np.concatenate([train.inputs, test.inputs]).astype(np.float64)
    inputs = (inputs - inputs.mean(0)) / inputs.std(0)
    smoothed = smoothed_label_distribution(np.concatenate([train.labels, test.labels]), inputs, 10)
    np.testing.assert_allclose(found["smoothed"], smoothed[len(train) :], atol=1e-9)


def test_enhancement_sees_what_smoothing_sees_and_of_many_samples_those_of_test_alone(runs, dataset, monkeypatch):
    train, test = dataset.splits["train"], dataset.splits["test"]
    features, labels = enhancement_input(dataset, runs / "SJAFFE.cld.constant.0.pretrain")
    np.testing.assert_array_equal(labels, np.concatenate([train.labels, test.labels]))
    np.testing.assert_allclose(features.std(axis=0), 1)
    monkeypatch.setattr("tools.results.recovery_candidates.MOST_ENHANCED", len(labels) - 1)
    alone, labels = enhancement_input(dataset, runs / "SJAFFE.cld.constant.0.pretrain")
    np.testing.assert_array_equal(labels, test.labels)
    np.testing.assert_array_equal(alone, features[len(train) :])


def enhancement(title="SJAFFE.FCM.0", **changes):
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(30, 4)), (rng.random((30, 3)) < 0.5).astype("float32")
    return Enhancement(
        **{"title": title, "algorithm": "FCM", "features": features, "labels": labels, "seed": 0} | changes
    )


def test_the_file_of_an_enhancement_follows_from_all_that_it_depends_on(tmp_path):
    one = enhancement()
    assert one.file(tmp_path) == enhancement().file(tmp_path)
    others = [
        enhancement(algorithm="LP"),
        enhancement(seed=1),
        enhancement(features=one.features + 1e-9),
        enhancement(labels=one.labels[:, ::-1]),
    ]
    assert len({each.file(tmp_path) for each in [one, *others]}) == 5


@with_package
def test_enhancements_run_in_processes_of_their_own_and_are_kept(tmp_path):
    tasks = [enhancement(), enhancement("SJAFFE.LP.0", algorithm="LP")]
    for task, found in zip(tasks, enhance_all(tasks, tmp_path, 2), strict=True):
        np.testing.assert_array_equal(found, enhance(task.algorithm, task.features, task.labels, 0))
    mark = np.full((30, 3), 0.5)
    np.save(tasks[0].file(tmp_path), mark)
    np.testing.assert_array_equal(enhance_all(tasks, tmp_path, 1)[0], mark)


@with_package
def test_an_algorithm_that_fails_is_named_and_the_others_are_kept(tmp_path):
    good, bad = enhancement(), enhancement("SJAFFE.KM.0", algorithm="KM", features=np.full((30, 4), np.nan))
    with pytest.raises(
        InputError, match=r"algorithms that work on these data\. Received: 1 that did not; SJAFFE\.KM\.0"
    ) as caught:
        enhance_all([bad, good], tmp_path, 1)
    assert "\n" not in str(caught.value)
    assert good.file(tmp_path).exists() and not bad.file(tmp_path).exists()


def made_up(**overrides):
    measures = {measure: [0.5, 0.7] for measure in (*MEASURES, *RELEVANT)}
    return {name: measures | overrides.get(name, {}) for name in ("cld, live: d", "smoothed")}


def test_the_verdict_says_whether_a_classifier_does_as_well():
    values = made_up() | {"classifier": made_up(smoothed={"pair_concordance": [0.8, 0.9]})["smoothed"]}
    *_, order = verdict(values).split("in the order of labels")
    assert "a classifier beats recovery (0.850)." in order


@pytest.mark.parametrize(("smoothed", "says"), [([0.4, 0.5], "beats"), ([0.7, 0.9], "does not beat")])
def test_the_verdict_says_where_smoothing_wins(smoothed, says):
    text = verdict(made_up(smoothed={"kl_relevant": smoothed}))
    assert (
        f"smoothing {says} recovery ({np.mean(smoothed):.3f})" in text.split("relevant labels by KL")[1].split(". ")[0]
    )


def test_the_verdict_of_one_seed_says_that_it_is_one():
    assert verdict(made_up()).startswith("Best over all labels")
    one = {name: {measure: found[:1] for measure, found in values.items()} for name, values in made_up().items()}
    assert verdict(one).startswith("One seed")


def test_the_table_marks_the_best_of_each_column_in_its_own_direction():
    text = table(made_up(smoothed={"kl": [0.1, 0.1], "cosine": [0.1, 0.1]}), MEASURES).splitlines()
    assert text[0].startswith("| | KL ↓ | Chebyshev ↓ |")
    ours, smoothed = ([cell.strip() for cell in line.split("|")[2:-1]] for line in text[2:])
    assert (ours[0], smoothed[0]) == ("0.600 ± 0.141", "**0.100**")
    assert (ours[4], smoothed[4]) == ("**0.600 ± 0.141**", "0.100")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--workdir is required"),
        (["--workdir=w", "--enhancement=LPP"], "--enhancement must be among"),
        (["--workdir=w", "--enhancement=", "--datasets=SJAFFE"], "--datasets must be among digits. Received: SJAFFE"),
        (["--workdir=w", "--enhancement=", "--ldl_dir=."], "--ldl_dir must hold .mat files"),
        (["--workdir=w", "--enhancement=", "--methods=any"], "--methods must be among cld, rld"),
        (
            ["--workdir=w", "--enhancement=", "--own_distributions=no"],
            "--own_distribution must be one of constant, live",
        ),
    ],
)
def test_wrong_settings_get_one_line(tmp_path, flags, message):
    assert_one_line(run_script("tools.results.recovery", *flags, cwd=tmp_path), message)


@pytest.mark.skipif(importlib.util.find_spec("pyldl") is not None, reason="python-ldl is installed")
def test_a_missing_package_is_reported_in_one_line():
    with pytest.raises(InputError, match=r"needs python-ldl==0\.1\.2 .*no package pyldl") as caught:
        parse_algorithms("LP,GLLE")
    assert "\n" not in str(caught.value)


@with_package
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in ("GLLE", "LEVI", "LIBLE", "ConLE")])
def test_label_enhancement_gives_distributions_and_leaves_its_inputs_alone(algorithm, dataset):
    features = dataset.splits["test"].inputs.astype(np.float64)
    labels = np.pad(dataset.splits["test"].labels, ((0, 0), (0, 1)))  # a label that no sample has
    before = features.copy(), labels.copy()
    recovered = enhance(algorithm, features, labels, 0)
    assert recovered.shape == labels.shape and (recovered >= 0).all()
    np.testing.assert_allclose(recovered.sum(axis=1), 1)
    assert not recovered[:, -1].any() and recovered[:, :-1].any(axis=0).all()
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(labels, before[1])
