import dataclasses
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from mulsupcon_tf.commands import feature_extraction, frozen_backbone, pretraining
from mulsupcon_tf.commands.embedding import export_embeddings
from mulsupcon_tf.commands.evaluating import evaluate_retrieval, evaluate_run
from mulsupcon_tf.commands.feature_extraction import Extractor
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.finished_run import load_classifier, open_run
from mulsupcon_tf.commands.frozen_backbone import with_features
from mulsupcon_tf.commands.outputs import predict_split
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.commands.searching import open_encoder, open_search
from mulsupcon_tf.config.common_flags import LARGEST_SEED
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EmbedConfig, EvaluateConfig, SearchConfig
from mulsupcon_tf.datasets.base import SPLIT_NAMES
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.input_pipeline.batches import fixed_view_batches
from mulsupcon_tf.models.backbone_weights import save_weights, weights_hash
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.serving.saved_model import load_saved_model
from mulsupcon_tf.training.checkpoints import CheckpointStore
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_file_sets import SIZES, as_judged, write_image_files
from tests.helpers.tiny_datasets import tiny_vectors, write_npz

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")

SIDE = 32
SMALL = {"epochs": 2, "batch_size": 8}


def write_network(path, seed):
    keras.utils.set_random_seed(seed)
    save_weights(build_backbone("resnet8", (SIDE, SIDE, 3)), pathlib.Path(path))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("frozen")


@pytest.fixture(scope="module")
def weights(folder):
    return write_network(folder / "one.weights.h5", 1)


@pytest.fixture(scope="module")
def photos(folder):
    """JPEGs and PNGs of all sizes with their table."""
    there = write_image_files(folder / "photos", SIZES)
    rows = ["file,labels,split"]
    for name, split in there.splits.items():
        for path, labels in zip(split.inputs.paths, split.labels, strict=True):
            names = ";".join(np.array(there.label_names)[labels > 0])
            rows.append(f"{os.path.relpath(path, folder / 'photos')},{names},{name}")
    (folder / "photos" / "labels.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")
    return folder / "photos"


@pytest.fixture(scope="module")
def source(photos, folder):
    return {"dataset": "csv", "data_dir": str(photos), "feature_cache": str(folder / "cache")}


@pytest.fixture(scope="module")
def frozen(weights):
    return {"backbone": "resnet8", "backbone_weights": weights, "image_size": SIDE, "freeze_backbone": True}


@pytest.fixture(scope="module")
def tuned(folder, source, frozen):
    summary = finetune(FinetuneConfig(**source, **frozen, **SMALL, workdir=str(folder / "tuned")))
    return folder / "tuned", summary


@pytest.fixture(scope="module")
def pretrained(folder, source, frozen):
    pretrain(PretrainConfig(**source, **frozen, **SMALL, method="all", workdir=str(folder / "pretrained")))
    return folder / "pretrained"


def refuse(*_, **__):
    raise AssertionError("features are computed again")


def test_what_is_evaluated_and_served_takes_raw_photos_and_says_what_training_said(tuned, source):
    run, summary = tuned
    assert (summary["backbone"], summary["input_shape"]) == ("resnet8", [SIDE, SIDE, 3])
    assert evaluate_run(EvaluateConfig(workdir=str(run)))["test"] == pytest.approx(summary["test"], abs=1e-6)
    dataset = load_dataset("csv", source["data_dir"])
    served = load_saved_model(run / "saved_model").signatures["serving_default"]
    encoded = [tf.io.read_file(path) for path in dataset.splits["test"].inputs.paths]
    answers = served(image_bytes=tf.stack(encoded))
    with np.load(run / "test_outputs.npz") as then:
        np.testing.assert_allclose(answers["probabilities"], then["probabilities"], atol=1e-5)
        np.testing.assert_allclose(answers["embedding"], then["embedding"], atol=1e-4)


@pytest.mark.slow
def test_neighbours_by_the_frozen_features_are_mixed_in_and_served_on_raw_photos(tuned, source, frozen, folder):
    run, plain = folder / "mixed", tuned[1]
    summary = finetune(FinetuneConfig(**source, **frozen, **SMALL, mix_neighbours=True, workdir=str(run)))
    assert summary["neighbours"]["share"] > 0 and summary["val"]["mAP"] > plain["val"]["mAP"]
    assert evaluate_run(EvaluateConfig(workdir=str(run)))["test"] == pytest.approx(summary["test"], abs=1e-6)
    dataset = load_dataset("csv", source["data_dir"])
    served = load_saved_model(run / "saved_model").signatures["serving_default"]
    answers = served(image_bytes=tf.stack([tf.io.read_file(path) for path in dataset.splits["test"].inputs.paths]))
    judged = predict_split(load_classifier(RunDirectory(run)), dataset.splits["test"], SIDE)["probabilities"]
    np.testing.assert_allclose(answers["probabilities"], judged, atol=1e-5)
    then, unmixed = outputs_of(run), outputs_of(tuned[0])
    np.testing.assert_allclose(judged, then["probabilities"], atol=1e-5)
    np.testing.assert_allclose(then["embedding"], unmixed["embedding"], atol=1e-5)
    assert np.abs(then["probabilities"] - unmixed["probabilities"]).max() > 0.01


def test_the_frozen_network_is_that_of_the_file_and_only_the_network_on_its_features_was_trained(tuned, weights):
    saved = keras.models.load_model(tuned[0] / "model.keras", compile=False).backbone
    start = build_backbone("resnet8", (SIDE, SIDE, 3), weights=weights)
    for here, there in zip(saved.get_layer("frozen").get_weights(), start.get_weights(), strict=True):
        np.testing.assert_array_equal(here, there)
    assert not saved.get_layer("frozen").trainable_variables
    fresh = build_backbone("mlp", (128,))
    trained = saved.get_layer("trained").trainable_variables
    assert [tuple(each.shape) for each in trained] == [tuple(each.shape) for each in fresh.trainable_variables]


def test_other_runs_on_the_same_photos_find_the_features_there(tuned, source, frozen, folder, monkeypatch):
    before = sorted((folder / "cache").glob("*.npy"))
    monkeypatch.setattr(Extractor, "blocks", refuse)
    settings = {"validation_fraction": 0, "seed": 1, "epochs": 1, "batch_size": 8}
    summary = finetune(FinetuneConfig(**source, **frozen, **settings, workdir=str(folder / "whole_train")))
    assert summary["split_sizes"]["train"] == SIZES["train"] + SIZES["validation"]
    assert sorted((folder / "cache").glob("*.npy")) == before


def test_a_pretraining_on_features_is_embedded_and_fine_tuned_with_the_same_network(
    pretrained, source, frozen, folder, tmp_path
):
    arrays = export_embeddings(EmbedConfig(workdir=str(pretrained), output=str(tmp_path / "test.npz")))
    with np.load(pretrained / "test_outputs.npz") as then:
        np.testing.assert_allclose(arrays["embedding"], then["embedding"], atol=1e-6)
    assert len(arrays["files"]) == SIZES["test"]
    settings = {"max_steps": 1, "batch_size": 8, "learning_rate": 1e-9, "pretrained": str(pretrained)}
    summary = finetune(FinetuneConfig(**source, **settings, workdir=str(tmp_path / "tuned")))
    assert (summary["method"], summary["input_shape"]) == ("all", [SIDE, SIDE, 3])
    flags = (tmp_path / "tuned" / "flags.txt").read_text()
    assert "--freeze_backbone=true\n" in flags and f"--backbone_weights={frozen['backbone_weights']}\n" in flags
    # It started from what the pretraining left.
    outputs = outputs_of(tmp_path / "tuned")
    np.testing.assert_allclose(outputs["embedding"], arrays["features"], atol=1e-4)


def test_the_frozen_network_is_read_once_for_all_parts_of_a_gallery(pretrained, monkeypatch):
    built, build = [], Extractor.build
    monkeypatch.setattr(Extractor, "build", lambda *args: built.append(args) or build(*args))
    opened = open_run(str(pretrained), None)
    test = load_dataset("csv", opened.data_dir).splits["test"]
    parts = [opened.represent(test[rows])["embedding"] for rows in (slice(5), slice(5, None))]
    np.testing.assert_allclose(np.concatenate(parts), opened.outputs("test")["embedding"], atol=1e-5)
    assert len(built) == 1


def test_a_frozen_run_that_begins_with_another_one_has_its_weights(tuned, source, folder):
    """A step of a rate that is next to nothing."""
    run, small = folder / "more", {"epochs": 1, "batch_size": 8, "max_steps": 1, "learning_rate": 1e-12}
    finetune(FinetuneConfig(**source, **small, init_from=str(tuned[0]), workdir=str(run)))
    for mine, others in zip(
        *(load_classifier(RunDirectory(each)).get_weights() for each in (run, tuned[0])), strict=True
    ):
        np.testing.assert_allclose(mine, others, atol=1e-8)


def outputs_of(run):
    with np.load(run / "test_outputs.npz") as file:
        return dict(file)


def test_a_pretraining_on_features_of_other_weights_is_refused(pretrained, source, tmp_path):
    other = write_network(tmp_path / "two.weights.h5", 2)
    settings = {"backbone_weights": other, "freeze_backbone": True, "pretrained": str(pretrained)}
    with pytest.raises(
        InputError, match=r"--pretrained must have been trained on features of these --backbone_weights"
    ):
        finetune(FinetuneConfig(**source, **settings, workdir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def with_network(run, then, copy):
    """A copy of a run whose `--backbone_weights` are a file beside it, with the content of this one."""
    shutil.copytree(run, copy)
    file = shutil.copy(then, copy.with_suffix(".weights.h5"))
    flags = (copy / "flags.txt").read_text().replace(f"--backbone_weights={then}\n", f"--backbone_weights={file}\n")
    (copy / "flags.txt").write_text(flags)
    return {"backbone_weights": str(file), "workdir": str(copy)}


def test_a_run_is_opened_with_the_network_that_it_was_trained_on_alone(pretrained, weights, tmp_path, monkeypatch):
    copy = with_network(pretrained, weights, tmp_path / "copy")
    write_network(copy["backbone_weights"], 2)
    monkeypatch.setattr(Extractor, "blocks", refuse)
    output, workdir = tmp_path / "output.npz", copy["workdir"]
    for command in (
        lambda: export_embeddings(EmbedConfig(workdir=workdir, output=str(output))),
        lambda: evaluate_retrieval(EvaluateConfig(workdir=workdir, retrieval=True)),
        lambda: open_encoder(SearchConfig(workdir=workdir)),
    ):
        with pytest.raises(
            InputError, match=r"--workdir must have been trained on features of these .*whose backbone had"
        ):
            command()
    assert not output.exists()


@pytest.fixture
def phases(tuned, pretrained, source, frozen):
    """Of each phase what trains, its settings with others in place of some, and a run of them."""
    given = source | frozen | SMALL
    return {
        "pretrain": (pretrain, lambda **others: PretrainConfig(**given | others, method="all"), pretrained),
        "finetune": (finetune, lambda **others: FinetuneConfig(**given | others), tuned[0]),
    }


@pytest.mark.parametrize("phase", [pytest.param("pretrain", marks=pytest.mark.slow), "finetune"])
def test_an_interrupted_run_goes_on_with_its_own_network_alone(phases, weights, tmp_path, monkeypatch, phase):
    train, config, run = phases[phase]
    copy = with_network(run, weights, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    settings = config(**copy)
    monkeypatch.setattr(Extractor, "blocks", refuse)
    write_network(copy["backbone_weights"], 2)
    with pytest.raises(InputError, match=r"--workdir must have been trained on features of these .*whose backbone had"):
        train(settings)
    shutil.copy(weights, copy["backbone_weights"])
    before = outputs_of(run)
    train(settings)
    after = outputs_of(tmp_path / "copy")
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_an_interrupted_run_that_did_not_note_its_network_goes_on(pretrained, weights, source, frozen, tmp_path):
    copy = with_network(pretrained, weights, tmp_path / "copy")
    (tmp_path / "copy" / "summary.json").unlink()
    store = CheckpointStore(tmp_path / "copy" / "checkpoints")
    arrays, progress = store.load_latest()
    assert progress.pop("frozen_weights") == json.loads((pretrained / "summary.json").read_text())["frozen_weights"]
    store.save(progress["step"], arrays, progress)
    summary = pretrain(PretrainConfig(**source | frozen | SMALL | copy, method="all"))
    assert summary["steps"] == progress["step"]


def test_an_index_is_of_the_frozen_network_too_and_one_of_before_is_searched_with_a_warning(
    pretrained, photos, tmp_path, caplog
):
    encoder = open_encoder(SearchConfig(workdir=str(pretrained)))
    summary = json.loads((pretrained / "summary.json").read_text())
    assert encoder.model == f"{summary['frozen_weights']} {summary['encoder_sha256']}"
    settings = {"workdir": str(pretrained), "gallery": str(photos / "test"), "index": str(tmp_path / "index.npz")}
    written = open_search(SearchConfig(**settings), encoder).index
    assert (written.model, len(written.files)) == (encoder.model, SIZES["test"])
    dataclasses.replace(written, model=summary["encoder_sha256"]).write(tmp_path / "index.npz")
    opened = open_search(SearchConfig(**settings), encoder).index
    assert (opened.model, "does not say which frozen backbone made it" in caplog.text) == (encoder.model, True)
    dataclasses.replace(written, model=f"other {summary['encoder_sha256']}").write(tmp_path / "index.npz")
    with pytest.raises(InputError, match=r"--index must be of this model .*of another model"):
        open_search(SearchConfig(**settings), encoder)


def test_only_a_pretraining_on_features_is_fine_tuned_frozen(pretrained, source, tmp_path):
    whole = shutil.copytree(pretrained, tmp_path / "whole")
    flags = (whole / "flags.txt").read_text().replace("--freeze_backbone=true", "--freeze_backbone=false")
    (whole / "flags.txt").write_text(flags)
    settings = {"freeze_backbone": True, "pretrained": str(whole), "workdir": str(tmp_path / "run")}
    with pytest.raises(InputError, match=r"--freeze_backbone with --pretrained needs a pretraining with"):
        finetune(FinetuneConfig(**source, **settings))


def test_what_does_not_fit_a_frozen_backbone_is_refused_in_one_line(frozen, tmp_path):
    with pytest.raises(InputError, match=r"needs --backbone and --backbone_weights"):
        PretrainConfig(freeze_backbone=True, backbone="resnet8")
    with pytest.raises(InputError, match=r"needs --backbone and --backbone_weights"):
        FinetuneConfig(freeze_backbone=True, backbone_weights="imagenet")
    with pytest.raises(InputError, match=r"by mask alone. Received: --augmentation=simple"):
        PretrainConfig(**frozen, augmentation="simple")
    with pytest.raises(InputError, match=r"--linear_probe with --freeze_backbone needs --pretrained"):
        FinetuneConfig(**frozen, linear_probe=True)
    with pytest.raises(
        InputError, match=r"--feature_views above 1 needs --freeze_backbone. Received: --feature_views=2"
    ):
        finetune(FinetuneConfig(feature_views=2, workdir=str(tmp_path / "run")))
    vectors = write_npz(tiny_vectors(), tmp_path / "vectors")
    with pytest.raises(InputError, match=r"--freeze_backbone takes images. Received: vectors of --dataset=npz"):
        finetune(FinetuneConfig(dataset="npz", data_dir=str(vectors), **frozen, workdir=str(tmp_path / "run")))


@pytest.fixture
def extractor(photos, weights):
    return Extractor.build("resnet8", weights, load_dataset("csv", str(photos)), SIDE)


def features_of(dataset, extractor, folder, num_views=None):
    return with_features(dataset, extractor, weights_hash(extractor.backbone), folder, num_views).splits


def test_features_are_the_networks_answers_without_augmentation_and_stay_on_disk(photos, extractor, tmp_path):
    dataset = load_dataset("csv", str(photos))
    features = features_of(dataset, extractor, tmp_path)
    for name in SPLIT_NAMES:
        images = np.stack(
            [as_judged(path, (SIDE, SIDE)) for path in map(pathlib.Path, dataset.splits[name].inputs.paths)]
        )
        expected = extractor.backbone(images, training=False)
        np.testing.assert_allclose(features[name].inputs, expected, atol=1e-4)
        assert isinstance(features[name].inputs, np.memmap)
        np.testing.assert_array_equal(features[name].labels, dataset.splits[name].labels)


def test_the_views_of_a_photo_are_itself_and_fixed_ones_and_only_those_that_lack_are_computed(
    photos, extractor, tmp_path, monkeypatch, caplog
):
    dataset = load_dataset("csv", str(photos))
    features_of(dataset, extractor, tmp_path, {"train": 2})
    names = computed(monkeypatch)
    with caplog.at_level("INFO", "mulsupcon_tf"):
        features = features_of(dataset, extractor, tmp_path, {"train": 3})
    assert names == ["train, view 3 of 3"]
    assert f"computed once: 128 features of {SIZES['train']} images and views, 12.0 KiB in " in caplog.text
    assert features["validation"].views.number == features["test"].views.number == 1
    train = features["train"]
    (views,) = train.views.parts
    assert len(views) == 3 and all(isinstance(view, np.memmap) for view in views)
    np.testing.assert_array_equal(views[0], train.inputs)
    for number in (1, 2):
        batches = fixed_view_batches(
            dataset.splits["train"],
            batch_size=64,
            augmentation="simple",
            image_size=SIDE,
            seed=LARGEST_SEED + number,
        )
        ((images, _),) = batches.as_numpy_iterator()
        expected = extractor.backbone(images[: SIZES["train"]], training=False)
        np.testing.assert_allclose(views[number], expected, atol=1e-4)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.median(np.abs(views[one] - views[other]).max(axis=1)) > 1e-2


@pytest.mark.slow
def test_a_run_on_views_that_died_goes_on_to_the_same_bits_and_is_fine_tuned_on_them(
    pretrained, source, frozen, tmp_path, monkeypatch
):
    settings = {**source, **frozen, **SMALL, "method": "all", "monitor_every": 1, "checkpoint_every": "2"}
    settings |= {"feature_views": 3, "feature_cache": str(tmp_path / "cache")}

    def run(name):
        pretrain(PretrainConfig(**settings, workdir=str(tmp_path / name)))
        return outputs_of(tmp_path / name)

    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "judge_by_neighbours", lambda *_: next(iter([])))  # dies after its first epoch
        with pytest.raises(StopIteration):
            run("parts")
    for name, values in run("parts").items():
        np.testing.assert_array_equal(values, whole[name])
    plain = outputs_of(pretrained)  # with the same settings, but for the views
    assert np.abs(plain["embedding"] - whole["embedding"]).max() > 1e-4
    tuning = {**source, "batch_size": 8, "max_steps": 1, "feature_cache": settings["feature_cache"]}
    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "blocks", refuse)
        run = str(tmp_path / "tuned")
        finetune(FinetuneConfig(**tuning, pretrained=str(tmp_path / "whole"), workdir=run))
    assert "--feature_views=3\n" in (tmp_path / "tuned" / "flags.txt").read_text()
    # What is only embedded needs no views.
    shutil.rmtree(tmp_path / "cache")
    names = computed(monkeypatch)
    arrays = export_embeddings(EmbedConfig(workdir=str(tmp_path / "whole"), output=str(tmp_path / "test.npz")))
    np.testing.assert_allclose(arrays["embedding"], whole["embedding"], atol=1e-5)
    assert sorted(names) == sorted(SPLIT_NAMES)


def computed(monkeypatch):
    """The names of splits that are computed from now on."""
    names, blocks = [], Extractor.blocks

    def watched(self, split, name, **settings):
        names.append(name)
        return blocks(self, split, name, **settings)

    monkeypatch.setattr(Extractor, "blocks", watched)
    return names


def test_features_are_computed_again_where_and_only_where_what_they_depend_on_is_another(
    photos, extractor, tmp_path, monkeypatch
):
    folder = shutil.copytree(photos, tmp_path / "photos")
    dataset = load_dataset("csv", str(folder))
    names = computed(monkeypatch)
    features_of(dataset, extractor, tmp_path / "cache")
    assert sorted(names) == sorted(SPLIT_NAMES)
    names.clear()
    moved = shutil.move(folder, tmp_path / "moved")
    dataset = load_dataset("csv", str(moved))
    before = features_of(dataset, extractor, tmp_path / "cache")
    assert names == []
    # A photo of one split is another, of the same size in bytes.
    path = pathlib.Path(dataset.splits["validation"].inputs.paths[0])
    content = path.read_bytes()
    other = next(each for each in pathlib.Path(moved).rglob("*.jpg") if each != path)
    path.write_bytes(other.read_bytes()[: len(content)].ljust(len(content), b"\0"))
    os.utime(path, ns=(1, 1))
    after = features_of(dataset, extractor, tmp_path / "cache")
    assert names == ["validation"]
    assert np.abs(after["validation"].inputs[0] - before["validation"].inputs[0]).max() > 1e-3
    names.clear()
    smaller = Extractor.build("resnet8", write_network(tmp_path / "w.weights.h5", 1), dataset, 24)
    assert weights_hash(smaller.backbone) == weights_hash(extractor.backbone)
    features_of(dataset, smaller, tmp_path / "cache")
    assert sorted(names) == sorted(SPLIT_NAMES)
    names.clear()
    other_weights = Extractor.build("resnet8", write_network(tmp_path / "v.weights.h5", 2), dataset, SIDE)
    features_of(dataset, other_weights, tmp_path / "cache")
    assert sorted(names) == sorted(SPLIT_NAMES)


@pytest.mark.parametrize(
    "damage", [b"\1\2\3", *(pytest.param(damage, marks=pytest.mark.slow) for damage in (b"", b"\xff" * 2500))]
)
def test_an_interrupted_computation_goes_on_and_ends_with_the_same_bits(
    photos, extractor, tmp_path, monkeypatch, damage
):
    monkeypatch.setattr(feature_extraction, "BATCH", 4)
    monkeypatch.setattr(frozen_backbone, "BATCH", 4)
    whole = load_dataset("csv", str(photos))
    dataset = dataclasses.replace(whole, splits={"train": whole.splits["train"]})
    expected = np.array(features_of(dataset, extractor, tmp_path / "undisturbed")["train"].inputs)
    blocks = Extractor.blocks

    def interrupted(self, split, name, **settings):
        for number, block in enumerate(blocks(self, split, name, **settings)):
            if number == 3:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(Extractor, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        features_of(dataset, extractor, tmp_path / "cache")
    (partial,) = (tmp_path / "cache").glob("*.partial")
    with partial.open("ab") as file:
        file.write(damage)
    begun = []

    def watched(self, split, name, *, first_row, **settings):
        begun.append(first_row)
        return blocks(self, split, name, first_row=first_row, **settings)

    monkeypatch.setattr(Extractor, "blocks", watched)
    found = features_of(dataset, extractor, tmp_path / "cache")["train"].inputs
    np.testing.assert_array_equal(found, expected)
    assert begun[0] in (8, 12)  # of 24; the last batch that is there is not trusted
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_a_disk_without_room_is_refused_before_anything_is_computed(photos, extractor, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(frozen_backbone.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    monkeypatch.setattr(Extractor, "blocks", refuse)
    with pytest.raises(InputError, match=r"--feature_cache must have room for \d+.\d KiB. Received: .* with 1.0 KiB"):
        features_of(load_dataset("csv", str(photos)), extractor, tmp_path / "cache")
