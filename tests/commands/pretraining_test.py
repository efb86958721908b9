import dataclasses
import json
import logging
import math
import shlex

import h5py
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from absl import flags
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mulsupcon_tf.commands.checking import check
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.phase import build_pretrainer
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.command_line import define_flags
from mulsupcon_tf.config.defaults import resolve_pretraining
from mulsupcon_tf.config.flags import METHODS, FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import CheckConfig
from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.evaluation.distribution_distances import judge_recovery
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.pretrain import main
from mulsupcon_tf.reporting.inputs import read_run
from mulsupcon_tf.serving.model_card import model_card
from mulsupcon_tf.training.run_directory import read_flags
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import contents
from tests.helpers.tiny_datasets import LABEL_NAMES, SIZES, tiny_images, tiny_vectors, write_npz

EPOCHS, BATCH, QUEUE = 3, 16, 100
STEPS = SIZES["train"] // BATCH
RECOVERING = ("cld", "rld")


def vectors_with_truth():
    dataset = tiny_vectors()
    amounts = np.arange(1.0, 1 + dataset.num_labels)
    splits = {}
    for name, split in dataset.splits.items():
        shares = split.labels * amounts
        truth = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
        splits[name] = dataclasses.replace(split, distributions=truth)
    return dataclasses.replace(dataset, splits=splits)


def config(data, workdir, **settings):
    defaults = {"epochs": EPOCHS, "batch_size": BATCH, "queue_size": QUEUE, "checkpoint_every": "1e"}
    return PretrainConfig(dataset="npz", data_dir=str(data), workdir=str(workdir), **defaults | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(scope="module")
def data(folder):
    return write_npz(vectors_with_truth(), folder / "vectors")


@pytest.fixture(scope="module")
def runs(folder, data):
    """A finished run of each method on vectors, made when it is first asked for."""
    summaries = {}

    def run_of(method):
        if method not in summaries:
            summaries[method] = pretrain(config(data, folder / method, method=method))
        return folder / method, summaries[method]

    return run_of


@pytest.fixture(scope="module")
def image_run(folder):
    images = write_npz(tiny_images(), folder / "images")
    return folder / "image_run", pretrain(config(images, folder / "image_run", epochs=1))


def epochs_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def events(run):
    """{tag: [(step, tensor)]} of the run's only event file."""
    (path,) = (run / "tensorboard").glob("events.out.tfevents.*")
    found = {}
    for event in EventFileLoader(str(path)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    return found


def test_a_run_leaves_these_files_and_no_others(runs):
    run, _ = runs("cld")
    files = {str(path) for path in contents(run) if "events.out.tfevents." not in path.name}
    assert files == {
        ".lock",
        "flags.txt",
        "metrics.jsonl",
        "summary.json",
        "encoder.weights.h5",
        "head.npz",
        "test_outputs.npz",
        "checkpoints/step-0000000008.npz",
        "checkpoints/step-0000000012.npz",
        "tensorboard/embeddings.tsv",
        "tensorboard/labels.tsv",
        "tensorboard/projector_config.pbtxt",
    }


def test_the_summary_says_what_was_run(runs):
    run, summary = runs("cld")
    assert json.loads((run / "summary.json").read_text()) == summary
    expected = {
        "phase": "pretrain",
        "dataset": "npz",
        "method": "cld",
        "seed": 0,
        "backbone": "mlp",
        "input_shape": [10],
        "label_names": list(LABEL_NAMES),
        "epochs": EPOCHS,
        "steps": EPOCHS * STEPS,
    }
    assert {name: summary[name] for name in expected} == expected
    speeds = [record["samples_per_second"] for record in epochs_of(run)]
    assert min(speeds) - 0.1 <= summary["samples_per_second"] <= max(speeds) + 0.1  # compiling is in neither
    assert summary["samples_per_second"] > summary["steps"] * BATCH / summary["seconds"]
    assert set(summary["versions"]) == {"mulsupcon_tf", "python", "tensorflow", "keras", "numpy"}
    assert summary["versions"]["tensorflow"] == tf.__version__


def test_each_epoch_leaves_one_object_with_its_losses_and_its_pace(runs):
    run, _ = runs("cld")
    records = epochs_of(run)
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 4), (2, 8), (3, 12)]
    for record in records:
        cosine = 0.5 * (1 + math.cos(math.pi * record["step"] / (EPOCHS * STEPS)))
        assert record["learning_rate"] == pytest.approx(4e-4 * (0.01 + 0.99 * cosine), rel=1e-4)
        assert record["queue_fill"] == pytest.approx(min(1, record["step"] * BATCH / QUEUE))
        assert 0 < record["leak"] < 1
        assert 0 <= record["distribution_entropy"] <= math.log(len(LABEL_NAMES)) + 1e-6
        assert record["samples_per_second"] > 0
        assert 0 <= record["data_wait_share"] <= 1
        assert all(math.isfinite(value) for value in record.values())
        # α = 1, and β times the penalty of the layer's kernel is what the total and its parts differ by.
        assert record["loss"] == pytest.approx(record["contrastive_loss"] + record["recovery_loss"], rel=1e-5)
        parts = record["similarity_loss"] + record["alignment_loss"]
        assert 0 <= record["recovery_loss"] - parts < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_and_only_recovering_ones_report_recovery(runs, method):
    run, summary = runs(method)
    assert summary["method"] == method
    for record in epochs_of(run):
        assert math.isfinite(record["loss"])
        assert 0 < record["embedding_std"] <= 1
        assert ("leak" in record, "recovery_loss" in record) == (method in RECOVERING,) * 2
    assert ("recovery" in summary) == (method in RECOVERING)


def test_methods_are_not_one_another(runs):
    losses = {method: epochs_of(runs(method)[0])[-1]["contrastive_loss"] for method in METHODS}
    apart = [losses[method] for method in METHODS]
    assert min(abs(a - b) for i, a in enumerate(apart) for b in apart[:i]) > 1e-3


def test_the_saved_encoder_gives_the_features_of_the_test_split(runs, data):
    run, _ = runs("cld")
    dataset = load_dataset("npz", data_dir=str(data))
    backbone = build_backbone("mlp", (10,), train_features=dataset.train_features)
    backbone.load_weights(run / "encoder.weights.h5")
    outputs = np.load(run / "test_outputs.npz")
    features = backbone.predict(dataset.splits["test"].inputs, verbose=0)
    np.testing.assert_allclose(outputs["features"], features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(outputs["distribution"].sum(1), 1, rtol=1e-5)


def test_recovery_is_judged_where_the_truth_is_known(runs, data):
    run, summary = runs("cld")
    outputs = np.load(run / "test_outputs.npz")
    dataset = load_dataset("npz", data_dir=str(data))
    expected = judge_recovery(dataset, outputs["distribution"], outputs["features"])
    assert summary["recovery"].keys() == expected.keys()
    for name, measures in expected.items():
        for measure, value in measures.items():
            got = summary["recovery"][name][measure]
            assert got is value or got == pytest.approx(value, rel=1e-5, abs=1e-7), (name, measure)


@pytest.mark.parametrize("share", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_test_split_with_hardly_any_truth_does_not_lose_the_run(tmp_path, share):
    dataset = vectors_with_truth()
    test = dataset.splits["test"]
    few = dataclasses.replace(
        test, inputs=test.inputs[:1], labels=test.labels[:1], distributions=share * test.distributions[:1]
    )
    write_npz(dataclasses.replace(dataset, splits={**dataset.splits, "test": few}), tmp_path / "data")
    summary = pretrain(config(tmp_path / "data", tmp_path / "run", max_steps=1))
    assert ("recovery" in summary) == bool(share)
    assert (tmp_path / "run" / "encoder.weights.h5").exists()


def test_tensorboard_has_the_scalars_of_every_epoch_and_histograms(runs):
    run, _ = runs("cld")
    found = events(run)
    for record in epochs_of(run):
        for tag in (
            "loss/loss",
            "loss/contrastive_loss",
            "recovery/leak",
            "machinery/queue_fill",
            "machinery/learning_rate",
            "machinery/samples_per_second",
            "embedding/uniformity",
        ):
            value = record[tag.partition("/")[2]]
            assert dict(found[tag])[record["step"]] == pytest.approx(value, rel=1e-6, abs=1e-12)
    for name, count in (("distribution", BATCH * len(LABEL_NAMES)), ("distribution_of_own_labels", None)):
        assert [step for step, _ in found[name]] == [4, 8, 12]
        for _, bins in found[name]:
            assert bins[0, 0] >= 0
            assert bins[-1, 1] <= 1 + 1e-6
            assert count in (None, bins[:, 2].sum())
    assert "views" not in found


def test_the_projector_shows_the_test_split(runs, data):
    run, _ = runs("cld")
    board = run / "tensorboard"
    embeddings = np.loadtxt(board / "embeddings.tsv", delimiter="\t")
    np.testing.assert_allclose(embeddings, np.load(run / "test_outputs.npz")["embedding"], atol=1e-4)
    rows = [line.split("\t") for line in (board / "labels.tsv").read_text().splitlines()]
    assert rows[0] == ["labels", "dominant", "count", *LABEL_NAMES]
    labels = load_dataset("npz", data_dir=str(data)).splits["test"].labels
    assert [[cell == "yes" for cell in row[3:]] for row in rows[1:]] == labels.astype(bool).tolist()
    assert 'tensor_path: "embeddings.tsv"' in (board / "projector_config.pbtxt").read_text()


def test_tensorboard_shows_pairs_of_augmented_views_of_images(image_run):
    run, summary = image_run
    assert (summary["backbone"], summary["input_shape"]) == ("resnet8", [20, 16, 3])
    found = events(run)
    ((step, (width, height, *pictures)),) = found["views"]
    assert (step, int(width), int(height), len(pictures)) == (0, 33, 20, 8)
    for picture in pictures:
        shown = tf.io.decode_png(picture).numpy().astype(int)
        assert shown.std() > 5
        assert np.abs(shown[:, :16] - shown[:, 17:]).mean() > 1  # two views, not one twice
    assert {"loss/loss", "loss/bce_loss"} <= found.keys()


def write_kind(kind, labels_of, folder):
    """Vectors, images or photos whose labels are `labels_of` of what they were; settings of a run on them."""
    drawn = tiny_vectors() if kind == "vectors" else tiny_images((16, 16, 3), {"train": 16, "validation": 8, "test": 8})
    splits = {name: Split(split.inputs, labels_of(split.labels)) for name, split in drawn.splits.items()}
    if kind != "photos":
        return {"dataset": "npz", "data_dir": str(write_npz(dataclasses.replace(drawn, splits=splits), folder))}
    folder.mkdir()
    rows = [f"file,{','.join(LABEL_NAMES)},split"]
    for name, split in splits.items():
        for number, (image, labels) in enumerate(zip(split.inputs, split.labels, strict=True)):
            PIL.Image.fromarray(image).save(folder / f"{name}{number}.png")
            rows.append(f"{name}{number}.png,{','.join(map(str, labels))},{name}")
    (folder / "labels.csv").write_text("\n".join([*rows, ""]))
    return {"dataset": "csv", "data_dir": str(folder), "image_size": 16, "backbone": "resnet8"}


@pytest.mark.parametrize(
    "kind", ["vectors", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("images", "photos"))]
)
def test_a_method_that_reads_no_labels_ends_with_the_same_bits_whatever_they_are(kind, tmp_path):
    """All else is as the command has it by default, of which one setting may read them."""
    ends = []
    for number, labels_of in enumerate((np.copy, lambda labels: 1 - labels)):
        data = write_kind(kind, labels_of, tmp_path / f"data{number}")
        workdir = tmp_path / f"run{number}"
        main(PretrainConfig(**data, method="self", batch_size=8, max_steps=2, workdir=str(workdir)))
        with h5py.File(workdir / "encoder.weights.h5") as file:
            weights = {}
            file.visititems(
                lambda name, item, weights=weights: weights.update({name: item[()]} if hasattr(item, "shape") else {})
            )
        with np.load(workdir / "test_outputs.npz") as outputs:
            ends.append(weights | {name: outputs[name] for name in outputs.files})
    assert ends[0].keys() == ends[1].keys() and len(ends[0]) > 5
    for name in ends[0]:
        np.testing.assert_array_equal(ends[1][name], ends[0][name], err_msg=name)


def test_a_worker_that_is_started_alone_on_a_finished_run_says_so_and_waits_for_nobody(runs, data, monkeypatch, caplog):
    run, summary = runs("cld")
    places = {"cluster": {"worker": ["localhost:1", "localhost:2"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(places))
    monkeypatch.setattr("mulsupcon_tf.training.devices.wait_for_all", lambda cluster: pytest.fail("it waits"))
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        assert pretrain(config(data, run, method="cld", strategy="multiworker")) == summary
    assert f"{run} is finished; nothing to do" in caplog.messages


@pytest.mark.parametrize("strategy", ["none", "multiworker"])  # a worker without the others, which TF_CONFIG would name
def test_the_same_command_again_says_finished_and_does_nothing(runs, data, caplog, strategy):
    run, summary = runs("cld")
    before = contents(run)
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        assert pretrain(config(data, run, strategy=strategy)) == summary
    assert f"{run} is finished; nothing to do" in caplog.text
    assert contents(run) == before


def test_other_settings_in_the_same_folder_are_refused_and_nothing_changes(runs, data):
    run, _ = runs("cld")
    before = contents(run)
    with pytest.raises(InputError, match=r"--seed: 0 there, 1 here; --temperature: 0\.1 there, 0\.2 here$"):
        pretrain(config(data, run, temperature=0.2, seed=1))
    with pytest.raises(InputError, match=r"--cld_kernel: softmax there, negative here$"):
        pretrain(config(data, run, cld_kernel="negative"))
    assert contents(run) == before


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("cld", {"alpha": 0.3, "beta": 0.2, "cld_kernel": "negative", "own_distribution": "live"}),
        ("rld", {"alpha": 0.3, "beta": 0.2, "rbf_sigma": 0.5, "temperature": 0.2}),
        ("mulsupcon", {"average": "anchor"}),
        ("truth", {"temperature": 0.2}),
    ],
)
def test_the_settings_of_a_method_reach_it(data, tmp_path, method, given):
    dataset = vectors_with_truth()
    settings = resolve_pretraining(
        config(data, tmp_path, method=method, **given), input_shape=dataset.input_shape, num_train=SIZES["train"]
    )
    model = build_pretrainer(settings, dataset, steps_per_epoch=4)
    assert {name: getattr(model.method, name) for name in given} == given


def test_flags_txt_repeats_the_run(runs):
    run, summary = runs("cld")
    values = flags.FlagValues()
    define_flags(PretrainConfig, values)
    values(["pretrain", f"--flagfile={run / 'flags.txt'}"])
    read = PretrainConfig(**{field.name: values[field.name].value for field in dataclasses.fields(PretrainConfig)})
    assert (read.queue_size, read.backbone, read.own_distribution) == (QUEUE, "mlp", "constant")
    assert pretrain(read) == summary  # it knows itself: finished, nothing to do


def test_one_seed_gives_one_result_to_the_last_bit_and_another_seed_another(runs, data, folder, caplog):
    first, _ = runs("cld")
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        pretrain(config(data, folder / "twin"))
        pretrain(config(data, folder / "other", seed=1))
    assert not [record for record in caplog.records if record.name == "mulsupcon_tf"]  # such as of collapse

    def results(run):
        with np.load(run / "checkpoints" / "step-0000000012.npz") as archive:
            state = {name: archive[name] for name in archive.files if name != "progress"}
        return state | dict(np.load(run / "test_outputs.npz"))

    arrays, twins, others = results(first), results(folder / "twin"), results(folder / "other")
    assert arrays.keys() == twins.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, twins[name], err_msg=name)
    assert not np.allclose(arrays["features"], others["features"])
    for record, twin, other in zip(*map(epochs_of, (first, folder / "twin", folder / "other")), strict=True):
        assert record["contrastive_loss"] == twin["contrastive_loss"] != other["contrastive_loss"]
        # TensorFlow may add up the parts of the loss that is logged in any order: the last bit is open.
        assert record["loss"] == pytest.approx(twin["loss"], rel=1e-6)


def test_a_collapsed_encoder_is_reported_once(folder, caplog):
    same = tiny_vectors()
    splits = {
        name: dataclasses.replace(split, inputs=np.ones_like(split.inputs)) for name, split in same.splits.items()
    }
    constant = write_npz(dataclasses.replace(same, splits=splits), folder / "constant")
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        pretrain(config(constant, folder / "collapsed", epochs=2, method="mulsupcon"))
    (message,) = (record.getMessage() for record in caplog.records if "embeddings" in record.getMessage())
    assert "embeddings look collapsed in epoch 1" in message
    assert "--bce_weight=1" in message


@pytest.mark.slow
@pytest.mark.parametrize("source", ["yeast", "hdf5"])
def test_yeast_is_pretrained_and_fine_tuned_from_either_format(shared_data, tmp_path, source):
    where = {"yeast": shared_data / "mulan", "hdf5": shared_data / "mulsupcon_hdf5"}[source]
    common = {"dataset": source, "data_dir": str(where), "epochs": 5}
    summary = pretrain(PretrainConfig(**common, workdir=str(tmp_path / "pre")))
    assert (summary["input_shape"], len(summary["label_names"])) == ([103], 14)
    assert math.isfinite(epochs_of(tmp_path / "pre")[0]["loss"])
    tuned = finetune(FinetuneConfig(**common, workdir=str(tmp_path / "tuned"), pretrained=str(tmp_path / "pre")))
    share = load_dataset(source, data_dir=str(where)).splits["test"].labels.mean()
    assert tuned["test"]["mAP"] > share + 0.05  # share: what a guess would have


@pytest.mark.slow
def test_digits_leave_the_plateau_and_a_probe_reads_them(tmp_path):
    """All settings are defaults, from random weights."""
    pretrain(PretrainConfig(workdir=str(tmp_path / "pre")))
    records = epochs_of(tmp_path / "pre")
    # On the plateau all keys are alike to an anchor, and each positive stays within 1% of ln K.
    assert records[-1]["contrastive_loss"] < 0.98 * records[-1]["positives"] * records[-1]["log_num_keys"]
    probe = finetune(
        FinetuneConfig(workdir=str(tmp_path / "probe"), pretrained=str(tmp_path / "pre"), linear_probe=True)
    )
    assert probe["test"]["mAP"] >= 0.70


def test_the_command_that_comes_next_runs_as_it_is_printed(folder, caplog):
    data = write_npz(tiny_vectors(), folder / "my vectors")
    run = folder / "to go on from"
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        pretrain(config(data, run, epochs=1, max_steps=1))
    (line,) = [message for message in caplog.messages if message.startswith("next: ")]
    words = shlex.split(line)
    assert words[:4] == ["next:", "python", "-m", "mulsupcon_tf.finetune"]
    given = dict(word.removeprefix("--").split("=", 1) for word in words[4:])
    assert given.pop("workdir") == "NEW"
    finetune(FinetuneConfig(**given, workdir=str(folder / "next"), max_steps=1))
    assert json.loads((folder / "next" / "summary.json").read_text())["method"] == "cld"


def test_the_command_that_comes_next_keeps_no_validation_apart_that_the_pretraining_has_seen(folder, caplog):
    data = write_npz(tiny_vectors(), folder / "seen")
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        pretrain(config(data, folder / "of all", epochs=1, max_steps=1, validation_fraction=0.0))
    (line,) = [message for message in caplog.messages if message.startswith("next: ")]
    assert "--validation_fraction=0" in shlex.split(line)


@pytest.mark.parametrize(
    ("warmup", "joining"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.0, None), (1.0, 4), (1.5, 2), (2.0, 0))), (50.0, 0)],
)
def test_a_contrastive_loss_that_never_joins_is_a_control_that_says_so(warmup, joining, data, tmp_path, caplog):
    settings = {"batch_size": 16, "epochs": 2, "bce_weight": 1.0, "bce_warmup_epochs": warmup}
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        summary = pretrain(config(data, tmp_path / "run", **settings))
    assert summary.get("contrastive_steps") == joining
    never = "warning: --bce_warmup_epochs takes all steps, so that the contrastive loss never joins"
    assert [message.startswith(never) for message in caplog.messages].count(True) == (joining == 0)
    if warmup != 50:
        return
    lines = list(check(CheckConfig(dataset="npz", data_dir=str(data), queue_size=QUEUE, **settings)))
    assert [line.startswith(never) for line in lines].count(True) == 1
    tuned = finetune(
        FinetuneConfig(
            dataset="npz",
            data_dir=str(data),
            pretrained=str(tmp_path / "run"),
            workdir=str(tmp_path / "tuned"),
            max_steps=1,
        )
    )
    assert tuned["contrastive_steps"] == 0
    titles = [read_run(tmp_path / name).title for name in ("run", "tuned")]
    assert titles == [
        "CLD (its loss never joined) pretraining",
        "CLD (its loss never joined) + fine-tuning",
    ]
    card = model_card(tuned, read_flags(tmp_path / "tuned" / "flags.txt"), "saved_model")
    assert "pretrained with `cld`, whose contrastive loss never joined, then" in card


@pytest.mark.parametrize(
    "method", ["cld", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rld", "mulsupcon"))]
)
@pytest.mark.filterwarnings("error:You are using a softmax")
def test_of_one_label_there_is_no_distribution_which_one_line_says(method, tmp_path, caplog):
    several = tiny_vectors()
    splits = {name: dataclasses.replace(split, labels=split.labels[:, :1]) for name, split in several.splits.items()}
    one = dataclasses.replace(several, label_names=several.label_names[:1], splits=splits)
    data, run = write_npz(one, tmp_path / "data"), tmp_path / "run"
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        pretrain(config(data, run, method=method, epochs=1))
    lines = [line for line in caplog.messages if line.startswith("warning: ")]
    assert [f"of one label --method={method} has no distribution" in line for line in lines] == [True] * (
        method != "mulsupcon"
    )
    count = int(splits["train"].labels.sum())
    assert f"labels in train: 'red' is the only one ({count}); 0 of 1 with fewer than 10 samples" in caplog.messages
    if method != "mulsupcon":
        with np.load(run / "test_outputs.npz") as outputs:
            np.testing.assert_array_equal(outputs["distribution"], 1.0)
