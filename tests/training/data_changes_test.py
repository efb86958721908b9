"""Data that have changed since a run saw them: refused in one line, or accepted with a warning."""

import dataclasses
import json
import logging
import shutil

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.embedding import export_embeddings
from mulsupcon_tf.commands.evaluating import evaluate_retrieval, evaluate_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EmbedConfig, EvaluateConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import with_share_of_train
from mulsupcon_tf.evaluate import main as evaluate
from mulsupcon_tf.models.backbone_weights import read_standardisation
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.training.data_changes import require_data_of
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.helpers.binaries import contents
from tests.helpers.tiny_datasets import LABEL_NAMES, SIZES, tiny_vectors, write_npz

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")

PRETRAIN = {"dataset": "npz", "epochs": 1, "batch_size": 16, "method": "mulsupcon", "embedding_size": 8}
FINETUNE = {"dataset": "npz", "epochs": 2, "batch_size": 16, "checkpoint_every": "1e"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data_changes")


@pytest.fixture(scope="module")
def data(folder):
    return write_npz(tiny_vectors(), folder / "data")


@pytest.fixture(scope="module")
def pretrained(folder, data):
    pretrain(PretrainConfig(**PRETRAIN, data_dir=str(data), workdir=str(folder / "pretrained")))
    return folder / "pretrained"


@pytest.fixture(scope="module")
def tuned(folder, data, pretrained):
    settings = {"data_dir": str(data), "pretrained": str(pretrained), "workdir": str(folder / "tuned")}
    finetune(FinetuneConfig(**FINETUNE, **settings))
    return folder / "tuned"


def changed(folder, change, sizes=SIZES):
    """The tiny vectors after `change` of each split, in another folder."""
    dataset = tiny_vectors(sizes=sizes)
    splits = {name: change(split) for name, split in dataset.splits.items()}
    return write_npz(dataclasses.replace(dataset, splits=splits), folder / "changed")


def columns_swapped(split):
    return Split(split.inputs, split.labels[:, [1, 0, 2, 3]])


def other_scale(split):
    return Split(split.inputs * 3 + 1, split.labels)


def refused(call, *parts):
    with pytest.raises(InputError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message and "--allow_changed_data be given. Received: " in message
    for part in parts:
        assert part in message


# ---- judging and encoding


def test_label_columns_that_were_swapped_are_refused_or_said_in_results_table_and_file(tuned, tmp_path, caplog, capsys):
    there = changed(tmp_path, columns_swapped)
    settings = EvaluateConfig(workdir=str(tuned), data_dir=str(there), output=str(tmp_path / "all.json"))
    refused(lambda: evaluate_run(settings), f"that {tuned} saw", "Received: other labels")
    assert not (tmp_path / "all.json").exists()
    evaluate(dataclasses.replace(settings, allow_changed_data=True))
    assert f"warning: the data are not those that {tuned} saw: other labels" in caplog.messages
    results = json.loads((tmp_path / "all.json").read_text())
    assert results["changed_data"] == "other labels"
    assert results["test"]["mAP"] < json.loads((tuned / "summary.json").read_text())["test"]["mAP"] - 0.05
    assert capsys.readouterr().out.endswith("the data have changed: other labels\n")


@pytest.mark.parametrize(
    ("change", "sizes", "said"),
    [
        (lambda split: split, SIZES | {"test": 25}, "64/24/25 samples in train/validation/test, not 64/24/24"),
        (other_scale, SIZES, "other vectors, or another order of them"),
        (
            lambda split: Split(split.inputs[::-1], split.labels[::-1]),
            SIZES,
            "other labels, other vectors, or another order",
        ),
        (
            lambda split: Split(
                split.inputs, split.labels, (split.labels / split.labels.sum(1, keepdims=True)).astype("f4")
            ),
            SIZES,
            "other true distributions",
        ),
    ],
)
def test_the_line_says_what_is_different(tuned, tmp_path, change, sizes, said):
    there = changed(tmp_path, change, sizes)
    refused(lambda: evaluate_run(EvaluateConfig(workdir=str(tuned), data_dir=str(there))), f"Received: {said}")


def test_data_that_moved_are_the_same_data(tuned, data, tmp_path, caplog):
    moved = shutil.copytree(data, tmp_path / "elsewhere")
    results = evaluate_run(EvaluateConfig(workdir=str(tuned), data_dir=str(moved)))
    assert results["test"] == pytest.approx(json.loads((tuned / "summary.json").read_text())["test"], abs=1e-9)
    assert "changed_data" not in results and "data are not those" not in caplog.text


@pytest.mark.parametrize("phase", ["pretrained", "tuned"])
def test_embeddings_and_retrieval_refuse_changed_data_or_say_so(request, phase, tmp_path):
    run, there = request.getfixturevalue(phase), changed(tmp_path, columns_swapped)
    common = {"workdir": str(run), "data_dir": str(there)}
    embed = EmbedConfig(**common, output=str(tmp_path / "e.npz"))
    retrieval = EvaluateConfig(**common, output=str(tmp_path / "r.json"))
    refused(lambda: export_embeddings(embed), "Received: other labels")
    refused(lambda: evaluate_retrieval(retrieval), "Received: other labels")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["changed"]
    export_embeddings(dataclasses.replace(embed, allow_changed_data=True))
    with np.load(tmp_path / "e.npz", allow_pickle=False) as arrays:
        assert str(arrays["changed_data"]) == "other labels"
    evaluate_retrieval(dataclasses.replace(retrieval, allow_changed_data=True))
    assert json.loads((tmp_path / "r.json").read_text())["changed_data"] == "other labels"


def test_a_pretraining_embeds_changed_vectors_standardised_as_it_learnt_them(pretrained, data, tmp_path):
    there = changed(tmp_path, other_scale)
    settings = EmbedConfig(workdir=str(pretrained), data_dir=str(there), output=str(tmp_path / "e.npz"))
    features = export_embeddings(dataclasses.replace(settings, allow_changed_data=True))["features"]
    backbone = build_backbone("mlp", (10,), train_features=load_dataset("npz", data_dir=str(data)).train_features)
    backbone.load_weights(pretrained / "encoder.weights.h5")
    expected = backbone.predict(tiny_vectors().splits["test"].inputs * 3 + 1, verbose=0)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_a_pretraining_embeds_fewer_samples_than_its_batch(pretrained, tmp_path):
    fewer = changed(tmp_path, lambda split: split, SIZES | {"train": 10})
    settings = {"data_dir": str(fewer), "output": str(tmp_path / "e.npz"), "allow_changed_data": True}
    assert len(export_embeddings(EmbedConfig(workdir=str(pretrained), **settings))["features"]) == SIZES["test"]


def test_samples_of_another_shape_are_refused_even_when_changes_are_allowed(tuned, tmp_path):
    wider = write_npz(tiny_vectors(num_features=12), tmp_path / "wider")
    settings = EvaluateConfig(workdir=str(tuned), data_dir=str(wider), allow_changed_data=True)
    with pytest.raises(InputError, match=r"must have the shape \(10,\), which .*tuned has learnt\. Received: \(12,\)"):
        evaluate_run(settings)


def renamed(folder, names, columns=(0, 1, 2, 3)):
    """The tiny vectors with these columns of labels, under these names."""
    dataset = tiny_vectors()
    splits = {name: Split(split.inputs, split.labels[:, list(columns)]) for name, split in dataset.splits.items()}
    return write_npz(MultiLabelDataset("npz", "vector", names, splits), folder)


@pytest.mark.parametrize(
    ("names", "columns", "said"),
    [
        (("green", "red", "blue", "bright"), (1, 0, 2, 3), "labels in another order"),
        # "red" became "warm", which stands last where labels are sorted; and one label is gone, or one was added.
        (("green", "blue", "bright", "warm"), (1, 2, 3, 0), "'green' for label 1, not 'red'"),
        (("red", "green", "blue"), (0, 1, 2), "3 labels, not 4"),
        (("red", "green", "blue", "bright", "dark"), (0, 1, 2, 3, 3), "5 labels, not 4"),
    ],
)
def test_labels_in_other_columns_are_refused_even_when_changes_are_allowed(tuned, tmp_path, names, columns, said):
    """What the model says of one label would be judged as if it were of another."""
    settings = {"workdir": str(tuned), "data_dir": str(renamed(tmp_path / "data", names, columns))}
    for command in (
        lambda: evaluate_run(EvaluateConfig(**settings, allow_changed_data=True)),
        lambda: export_embeddings(EmbedConfig(**settings, output=str(tmp_path / "e.npz"), allow_changed_data=True)),
    ):
        with pytest.raises(InputError, match=r"must be those that .*tuned has learnt, in their order") as raised:
            command()
        assert str(raised.value).endswith(f"Received: {said}")


def test_a_label_in_its_place_may_have_another_name_when_changes_are_allowed(tuned, tmp_path):
    there = renamed(tmp_path / "data", ("crimson", "green", "blue", "bright"))
    results = evaluate_run(EvaluateConfig(workdir=str(tuned), data_dir=str(there), allow_changed_data=True))
    assert results["changed_data"] == "'crimson' for label 1, not 'red'"
    assert results["test"] == pytest.approx(json.loads((tuned / "summary.json").read_text())["test"], abs=1e-9)


def test_a_pretraining_without_outputs_by_label_is_judged_on_other_labels_when_changes_are_allowed(
    pretrained, tmp_path
):
    there = renamed(tmp_path / "data", ("green", "red", "blue", "bright"), (1, 0, 2, 3))
    settings = {"workdir": str(pretrained), "data_dir": str(there), "output": str(tmp_path / "r.json")}
    assert "changed_data" in evaluate_retrieval(EvaluateConfig(**settings, retrieval=True, allow_changed_data=True))


# ---- training


def commands(pretrained, tuned):
    """How each of the two runs was started, for other data and another folder."""
    return {
        pretrained: lambda data, run, **more: pretrain(
            PretrainConfig(**PRETRAIN, data_dir=str(data), workdir=str(run), **more)
        ),
        tuned: lambda data, run, **more: finetune(
            FinetuneConfig(**FINETUNE, data_dir=str(data), pretrained=str(pretrained), workdir=str(run), **more)
        ),
    }


def test_a_finished_run_is_not_taken_for_one_on_other_data(pretrained, tuned, data, tmp_path, caplog):
    there = changed(tmp_path, columns_swapped)
    for run, command in commands(pretrained, tuned).items():
        before = contents(run)
        refused(lambda run=run, command=command: command(there, run), f"{run} saw", "Received: other labels")
        caplog.clear()
        with caplog.at_level(logging.INFO, "mulsupcon_tf"):
            summary = command(there, run, allow_changed_data=True)
        assert caplog.messages[-2:] == [
            f"warning: the data are not those that {run} saw: other labels",
            f"{run} is finished; nothing to do",
        ]
        assert summary == json.loads((run / "summary.json").read_text())
        assert summary["data_fingerprint"] == load_dataset("npz", data_dir=str(data)).fingerprint()
        assert contents(run) == before


def test_an_interrupted_run_is_not_continued_on_other_data_unless_allowed_and_its_results_say_so(
    pretrained, tuned, tmp_path
):
    there = changed(tmp_path, columns_swapped)
    for run, command in commands(pretrained, tuned).items():
        copy = shutil.copytree(run, tmp_path / f"{run.name} copy")
        (copy / "summary.json").unlink()
        before = contents(copy)
        refused(lambda copy=copy, command=command: command(there, copy), "Received: other labels")
        assert contents(copy) == before
        assert command(there, copy, allow_changed_data=True)["changed_data"].startswith("other labels")


def test_what_was_said_of_a_continued_run_is_not_forgotten_when_it_is_interrupted_again(tuned, pretrained, tmp_path):
    there, run = changed(tmp_path, columns_swapped), tmp_path / "run"
    command = commands(pretrained, tuned)[tuned]
    shutil.copytree(tuned, run)
    (run / "summary.json").unlink()
    max((run / "checkpoints").iterdir()).unlink()  # one epoch is left to do
    first = command(there, run, allow_changed_data=True)
    (run / "summary.json").unlink()
    again = command(there, run, allow_changed_data=True)
    assert first["changed_data"] == again["changed_data"] == "other labels; since the pretraining: other labels"
    assert (
        first["data_fingerprint"] == again["data_fingerprint"] == load_dataset("npz", data_dir=str(there)).fingerprint()
    )


def test_samples_that_were_added_are_reported_rather_than_a_setting_that_follows_their_number(
    pretrained, tuned, tmp_path
):
    more = changed(tmp_path, lambda split: split, SIZES | {"train": 80})
    command = commands(pretrained, tuned)[pretrained]
    refused(lambda: command(more, pretrained), "Received: 80/24/24 samples in train/validation/test, not 64/24/24")


def normalisation_of(run):
    backbone = keras.models.load_model(run / "model.keras", compile=False).backbone
    (layer,) = (layer for layer in backbone.layers if isinstance(layer, keras.layers.Normalization))
    return np.ravel(layer.mean), np.ravel(layer.variance)


def test_an_encoder_of_other_data_of_the_same_name_must_be_allowed_and_sees_vectors_as_it_learnt_them(
    pretrained, data, tmp_path
):
    there = changed(tmp_path, other_scale)
    settings = FinetuneConfig(
        **FINETUNE, data_dir=str(there), pretrained=str(pretrained), linear_probe=True, workdir=str(tmp_path / "run")
    )
    refused(lambda: finetune(settings), f"{pretrained} saw", "Received: other vectors")
    assert not (tmp_path / "run").exists()
    summary = finetune(dataclasses.replace(settings, allow_changed_data=True))
    assert summary["changed_data"] == "since the pretraining: other vectors, or another order of them"
    learnt_on = load_dataset("npz", data_dir=str(data)).train_features
    mean, variance = normalisation_of(tmp_path / "run")
    np.testing.assert_allclose(mean, learnt_on.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, learnt_on.var(0, dtype=np.float64), rtol=1e-6)


def write_arff(folder, dataset):
    """As `--dataset=arff` reads it: the same vectors under another name."""
    folder.mkdir()
    names = [f"f{number}" for number in range(dataset.input_shape[0])]
    header = "@relation r\n" + "".join(f"@attribute {name} numeric\n" for name in names)
    header += "".join(f"@attribute {name} {{0,1}}\n" for name in dataset.label_names) + "@data\n"
    for part in ("train", "test"):
        split = dataset.splits[part]
        rows = (
            ",".join(map(str, [*row.tolist(), *sample.tolist()]))
            for row, sample in zip(split.inputs, split.labels, strict=True)
        )
        (folder / f"own-{part}.arff").write_text(header + "\n".join(rows) + "\n")
    labels = "".join(f'<label name="{name}"/>' for name in dataset.label_names)
    (folder / "own.xml").write_text(f"<labels>{labels}</labels>")
    return folder


def test_an_encoder_is_carried_over_to_a_dataset_of_another_name_without_a_word(pretrained, tmp_path, caplog):
    dataset = tiny_vectors()
    scaled = {name: other_scale(split) for name, split in dataset.splits.items()}
    there = write_arff(tmp_path / "arff", dataclasses.replace(dataset, splits=scaled))
    settings = {**FINETUNE, "dataset": "arff", "data_dir": str(there), "max_steps": 1}
    summary = finetune(FinetuneConfig(**settings, pretrained=str(pretrained), workdir=str(tmp_path / "run")))
    assert "changed_data" not in summary and "data are not those" not in caplog.text
    own = load_dataset("arff", data_dir=str(there)).train_features
    np.testing.assert_allclose(normalisation_of(tmp_path / "run")[0], own.mean(0, dtype=np.float64), rtol=1e-5)


@pytest.mark.slow
def test_a_share_of_the_labels_and_images_that_cannot_be_read_do_not_make_other_data(tmp_path, caplog):
    photos = tmp_path / "photos"
    rows = [f"{number}.jpg,{'sea' if number % 2 else 'beach;sea'}" for number in range(40)]
    for number in range(40):
        write_photo(photos / f"{number}.jpg", number % 20)
    (photos / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    dataset = load_dataset("csv", data_dir=str(photos))
    broken = dataset.splits["train"].inputs.names[0]
    (photos / broken).write_bytes(b"\xff\xd8\xff, and nothing more")
    small = {
        "dataset": "csv",
        "data_dir": str(photos),
        "max_steps": 1,
        "batch_size": 2,
        "image_size": 16,
        "skip_bad_images": True,
    }
    first = PretrainConfig(
        **small,
        method="any",
        backbone="resnet8",
        queue_size=4,
        monitor_every=0,
        label_fraction=0.5,
        workdir=str(tmp_path / "pre"),
    )
    now = load_dataset("csv", data_dir=str(photos)).fingerprint()
    assert pretrain(first)["data_fingerprint"] == now
    arrays = export_embeddings(EmbedConfig(workdir=first.workdir, split="train", output=str(tmp_path / "e.npz")))
    assert len(arrays["files"]) == len(dataset.splits["train"]) - 1 and broken not in arrays["files"].tolist()
    assert "data are not those" not in caplog.text
    (photos / broken).write_bytes(b"another size")
    again = load_dataset("csv", data_dir=str(photos))
    refused(
        lambda: require_data_of(RunDirectory(first.workdir), again, allowed=False, data_dir=str(photos)),
        "Received: files of other sizes",
    )


# ---- runs of earlier versions


def as_of_version_1(run, fingerprint):
    """What an earlier version left: no fingerprint in the summary, one of the first kind in the checkpoints."""
    for path in (run / "checkpoints").iterdir():
        with np.load(path) as archive:
            arrays = dict(archive)
        progress = json.loads(str(arrays["progress"])) | {"data": fingerprint}
        del progress["changed_data"]
        np.savez(path, **arrays | {"progress": np.array(json.dumps(progress))})
    summary = json.loads((run / "summary.json").read_text())
    del summary["data_fingerprint"]
    (run / "summary.json").write_text(json.dumps(summary))
    return run


def test_a_run_with_the_earlier_kind_of_fingerprint_is_compared_by_the_earlier_formula(
    pretrained, tuned, data, tmp_path, caplog
):
    run = as_of_version_1(
        shutil.copytree(tuned, tmp_path / "run"), load_dataset("npz", data_dir=str(data)).earlier_fingerprint()
    )
    there = changed(tmp_path, columns_swapped)
    assert "changed_data" not in evaluate_run(EvaluateConfig(workdir=str(run)))
    assert not caplog.messages
    settings = EvaluateConfig(workdir=str(run), data_dir=str(there))
    refused(lambda: evaluate_run(settings), "other data, or other splits of them: the run is of a version that drew")
    (run / "summary.json").unlink()  # and an interrupted one goes on
    assert "changed_data" not in commands(pretrained, tuned)[tuned](data, run)


def test_a_pretraining_on_a_share_is_compared_by_the_share_as_it_was_then(data, tmp_path):
    run = tmp_path / "run"
    settings = PretrainConfig(**PRETRAIN, data_dir=str(data), label_fraction=0.5, seed=3, workdir=str(run))
    pretrain(settings)
    dataset = load_dataset("npz", data_dir=str(data))
    as_of_version_1(run, with_share_of_train(dataset, 0.5, 3).earlier_fingerprint())
    assert require_data_of(RunDirectory(run), dataset, allowed=False, data_dir=None) == ""
    (run / "summary.json").unlink()
    assert pretrain(settings)["data_fingerprint"] == dataset.fingerprint()


def run_that_saw(folder, **summary):
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"phase": "finetune"} | summary))
    return RunDirectory(folder)


def dataset_named(*names):
    split = Split(np.eye(len(names), dtype=np.float32), np.eye(len(names), dtype=np.uint8))
    return MultiLabelDataset("npz", "vector", names, dict.fromkeys(("train", "validation", "test"), split))


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        (("sea", "beach"), ("beach", "sea"), "labels in another order"),
        (("sea", "beach"), ("sea", "sky"), "'sky' for label 2, not 'beach'"),
        (("sea",), ("sea", "sky"), "2 labels, not 1"),
    ],
)
def test_which_names_of_labels_are_others_is_said_also_where_no_fingerprint_is_known(tmp_path, then, now, said):
    for number, stored in enumerate(({}, {"data_fingerprint": dataset_named(*then).fingerprint()})):
        run = run_that_saw(tmp_path / str(number), label_names=list(then), **stored)
        refused(lambda run=run: require_data_of(run, dataset_named(*now), allowed=False, data_dir=None), said)


def test_where_nothing_was_stored_that_is_said_and_nothing_is_refused(tmp_path, caplog):
    run = run_that_saw(tmp_path / "run", label_names=["sea", "beach"])
    assert require_data_of(run, dataset_named("sea", "beach"), allowed=False, data_dir=None) == ""
    assert caplog.messages == [
        f"warning: {run.path} stored no fingerprint, so that nobody knows whether its data are the same"
    ]


def test_a_fingerprint_of_a_later_version_is_not_guessed_at(tmp_path):
    dataset = dataset_named("sea", "beach")
    run = run_that_saw(
        tmp_path / "run", label_names=["sea", "beach"], data_fingerprint="3:" + dataset.fingerprint()[2:]
    )
    refused(
        lambda: require_data_of(run, dataset, allowed=False, data_dir=None), "a fingerprint of version 3, which this"
    )


def test_a_folder_without_a_run_may_have_any_data(tmp_path):
    assert require_data_of(RunDirectory(tmp_path), dataset_named("sea"), allowed=False, data_dir=None) == ""


def test_an_encoder_that_an_earlier_version_wrote_has_no_statistics_and_takes_those_of_its_samples(
    pretrained, data, tmp_path
):
    copy = shutil.copytree(pretrained, tmp_path / "copy")
    backbone = build_backbone("mlp", (10,))
    backbone.load_weights(copy / "encoder.weights.h5")
    backbone.save_weights(copy / "encoder.weights.h5")  # Keras' own writer
    assert read_standardisation(copy / "encoder.weights.h5") is None
    summary = json.loads((copy / "summary.json").read_text())
    del summary["encoder_sha256"]
    (copy / "summary.json").write_text(json.dumps(summary))
    finetune(FinetuneConfig(**FINETUNE, data_dir=str(data), pretrained=str(copy), workdir=str(tmp_path / "run")))
    learnt_on = load_dataset("npz", data_dir=str(data)).train_features
    np.testing.assert_allclose(normalisation_of(tmp_path / "run")[0], learnt_on.mean(0, dtype=np.float64), rtol=1e-6)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["label_names"] == list(LABEL_NAMES)
