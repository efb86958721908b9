"""Features of a dataset by a network without a run; those of a finished run are in finished_run_test."""

import contextlib
import os
import re
import shutil

import keras
import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.commands import embedding
from mulsupcon_tf.commands.embedding import write_features
from mulsupcon_tf.commands.feature_extraction import Extractor
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import EmbedConfig
from mulsupcon_tf.datasets.base import SPLIT_NAMES
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import assert_one_line
from tests.helpers.forking import forked_binary
from tests.helpers.image_folders import write_coco
from tests.helpers.tiny_datasets import tiny_vectors, write_npz

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")

SIDE = 20


@pytest.fixture(scope="module", autouse=True)
def each_network_is_built_once():
    """Its graph takes seconds."""
    build = Extractor.build
    built = {}

    def build_once(name, weights, dataset, image_size):
        key = (name, weights, dataset.kind, dataset.input_shape, image_size)
        if key not in built:
            built[key] = build(name, weights, dataset, image_size)
        return built[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Extractor, "build", build_once)
        yield


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Settings of a small network whose weights are in a file."""
    path = tmp_path_factory.mktemp("network") / "small.weights.h5"
    keras.utils.set_random_seed(3)
    save_weights(build_backbone("resnet8", (SIDE, SIDE, 3)), path)
    return {"backbone": "resnet8", "backbone_weights": str(path)}


@pytest.fixture
def photos(tmp_path):
    """PNGs of the size that the network sees, so that another program reads the very same pixels."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["file,labels,split"]
    for number, split in enumerate(["train"] * 70 + ["validation"] * 5 + ["test"] * 6):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "sub" / f"{number}.png")
        rows.append(f"sub/{number}.png,{'sea;sun' if number % 2 else 'sea'}{';rare' if number == 1 else ''},{split}")
    (folder / "labels.csv").write_text("\n".join([*rows, ""]))
    return folder


def config(network, **settings):
    return EmbedConfig(**network, image_size=SIDE, **settings)


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_each_file_holds_what_the_network_makes_of_the_photos_that_it_names(network, photos, tmp_path):
    settings = {"dataset": "csv", "data_dir": str(photos), "min_label_count": 2, "output": str(tmp_path / "features")}
    shapes = write_features(config(network, **settings))
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        "test.npz",
        "train.npz",
        "validation.npz",
    ]
    model = build_backbone("resnet8", (SIDE, SIDE, 3), weights=network["backbone_weights"])
    dataset = load_dataset("csv", str(photos), min_label_count=2)
    for name in SPLIT_NAMES:
        arrays = arrays_of(tmp_path / "features" / f"{name}.npz")
        assert shapes[name] == {key: array.shape for key, array in arrays.items() if array.ndim}
        pixels = [np.asarray(PIL.Image.open(photos / file)) for file in arrays["files"]]
        expected = model(np.stack(pixels).astype(np.float32), training=False)
        np.testing.assert_allclose(arrays["features"], expected, atol=1e-5)
        assert [str(photos / file) for file in arrays["files"]] == dataset.splits[name].inputs.paths.tolist()
        np.testing.assert_array_equal(arrays["labels"], dataset.splits[name].labels)
        assert arrays["label_names"].tolist() == ["sea", "sun"]
        assert "--backbone=resnet8" in str(arrays["made_by"])
        assert "20 x 20 pixels" in str(arrays["made_by"])


def test_they_are_a_dataset_that_a_classifier_learns_on(network, photos, tmp_path):
    output = str(tmp_path / "features")
    write_features(config(network, dataset="csv", data_dir=str(photos), output=output))
    there, here = load_dataset("csv", str(photos)), load_dataset("npz", output)
    assert (here.kind, here.input_shape, here.label_names) == ("vector", (128,), there.label_names)
    for name in SPLIT_NAMES:
        np.testing.assert_array_equal(here.splits[name].labels, there.splits[name].labels)
    settings = {"max_steps": 2, "batch_size": 8, "workdir": str(tmp_path / "run")}
    assert finetune(FinetuneConfig(dataset="npz", data_dir=output, **settings))["backbone"] == "mlp"


def test_true_distributions_go_along(network, tmp_path):
    coco = write_coco(tmp_path / "coco")
    output = str(tmp_path / "features")
    write_features(config(network, dataset="coco", data_dir=str(coco), output=output))
    there, here = load_dataset("coco", str(coco)), load_dataset("npz", output)
    for name in SPLIT_NAMES:
        np.testing.assert_array_equal(here.splits[name].distributions, there.splits[name].distributions)


@pytest.fixture
def encoded(monkeypatch):
    """The splits that are encoded, in order, each as often as it is."""
    names = []
    blocks = Extractor.blocks

    def counted(self, split, name, **settings):
        names.append(name)
        return blocks(self, split, name, **settings)

    monkeypatch.setattr(Extractor, "blocks", counted)
    return names


def assert_same_files(one, other):
    for name in SPLIT_NAMES:
        here, there = arrays_of(one / f"{name}.npz"), arrays_of(other / f"{name}.npz")
        assert here.keys() == there.keys()
        for key, array in here.items():
            np.testing.assert_array_equal(array, there[key])


@pytest.mark.slow
def test_photos_that_cannot_be_read_are_named_or_left_out_and_what_is_whole_stays(network, photos, tmp_path, encoded):
    broken = photos / "sub" / "72.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    output = tmp_path / "features"
    settings = {"dataset": "csv", "data_dir": str(photos), "output": str(output)}
    for _ in range(2):
        with pytest.raises(InputError, match=r"--skip_bad_images leaves the others out. Received: .*72\.png"):
            write_features(config(network, **settings))
        assert [path.name for path in output.iterdir()] == ["train.npz"]
    shutil.copytree(output, tmp_path / "mended")
    write_features(config(network, **settings, skip_bad_images=True))
    assert len(arrays_of(output / "validation.npz")["files"]) == 4
    assert (output / "bad_images.txt").read_text().startswith("sub/72.png\t")
    broken.write_bytes(whole)
    write_features(config(network, **settings | {"output": str(tmp_path / "mended")}))
    assert len(arrays_of(tmp_path / "mended" / "validation.npz")["files"]) == 5
    assert encoded.count("train") == 1


@pytest.fixture
def interrupted(monkeypatch):
    """Within, Ctrl-C comes when validation.npz is to be written."""
    write = embedding.write_npz

    def write_or_not(path, *arguments, **arrays):
        if path.name == "validation.npz":
            raise KeyboardInterrupt
        write(path, *arguments, **arrays)

    @contextlib.contextmanager
    def context():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(embedding, "write_npz", write_or_not)
            yield

    return context


def test_an_interruption_costs_the_split_that_was_being_written(network, photos, encoded, interrupted, caplog):
    tmp_path = photos.parent
    common = {"dataset": "csv", "data_dir": str(photos)}
    settings = config(network, **common, output=str(tmp_path / "features"))
    with interrupted():
        write_features(settings)
    assert caplog.messages[-1] == f"{tmp_path}/features keeps train.npz: the same command goes on from there"
    (tmp_path / "features" / ".partial-1-validation.npz").touch()  # what a killed process leaves
    shapes = write_features(settings)
    assert encoded == ["train", "validation", "validation", "test"]
    del encoded[:]
    assert write_features(settings) == shapes
    assert encoded == []
    assert write_features(config(network, **common, output=str(tmp_path / "anew"))) == shapes
    assert_same_files(tmp_path / "features", tmp_path / "anew")
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        "test.npz",
        "train.npz",
        "validation.npz",
    ]


def test_nothing_is_left_of_a_call_that_has_written_nothing(network, photos, tmp_path):
    (photos / "sub" / "3.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"Received: .*3\.png"):
        write_features(config(network, dataset="csv", data_dir=str(photos), output=str(tmp_path / "features")))
    assert not (tmp_path / "features").exists()


def test_features_of_other_settings_or_photos_are_never_put_beside_each_other(network, photos, tmp_path):
    output, table = tmp_path / "features", photos / "labels.csv"
    common = {**network, "dataset": "csv", "data_dir": str(photos), "image_size": SIDE, "output": str(output)}
    write_features(EmbedConfig(**common))
    (output / "test.npz").unlink()
    before = (output / "train.npz").read_bytes()
    rule = r"--output must be a new or an empty folder, or .* the same images\. Received: .*/train\.npz"

    def refuse(word, **settings):
        with pytest.raises(InputError, match=f"{rule}, {word}$"):
            write_features(EmbedConfig(**common | settings))

    refuse(r"made by --backbone=resnet8, weights [0-9a-f]{16}, 20 x 20 pixels", image_size=SIDE + 4)
    refuse("of other labels", min_label_count=2)
    rows = table.read_text()
    table.write_text(rows.replace("sub/4.png,sea,", "sub/4.png,sea;sun,"))
    refuse("of other labels")
    table.write_text(rows)
    os.utime(photos / "sub" / "4.png", (1, 1))
    refuse("of other images")
    assert (output / "train.npz").read_bytes() == before
    (output / "train.npz").write_bytes(before[:100])
    refuse("which is no file of features")
    assert not (output / "test.npz").exists()


def test_what_is_there_is_not_overwritten_and_vectors_have_no_features(network, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()

    def refuse(output, message, **settings):
        with pytest.raises(InputError, match=message):
            write_features(config(network, **{"dataset": "digits"} | settings, output=str(output)))

    rule = r"--output must be a new or an empty folder, or .*Received: "
    refuse(tmp_path / "mine", rule + r".*/mine with notes\.txt$")
    refuse(tmp_path / "mine" / "notes.txt", rule + r".*/notes\.txt, a file$")
    vectors = write_npz(tiny_vectors(), tmp_path / "vectors")
    refused = r"--backbone=resnet8 takes images. Received: vectors of --dataset=npz"
    refuse(tmp_path / "new", refused, dataset="npz", data_dir=str(vectors))
    assert not (tmp_path / "new").exists()


def test_one_process_at_a_time_writes_into_a_folder(network, photos, tmp_path):
    (tmp_path / "used").mkdir()
    with atomic_file.in_use(tmp_path / "used"), pytest.raises(InputError, match=r"by one process at a time.*, in use$"):
        write_features(config(network, dataset="csv", data_dir=str(photos), output=str(tmp_path / "used")))
    assert (tmp_path / "used").exists()


def test_the_binary_says_how_much_and_how_long_and_what_comes_next(network, photos, tmp_path):
    output = tmp_path / "features"
    common = {"dataset": "csv", "data_dir": photos, "image_size": SIDE, "output": output}
    done = forked_binary("embed", **network, **common)
    assert done.returncode == 0, done.stderr
    assert f"128 features of 81 images: 40.5 KiB in {output}" in done.stderr
    assert re.search(r"train: features of 70 images at \d+ a second, about ", done.stderr)
    assert f"train written to {output}/train.npz: features [70, 128], labels [70, 3]" in done.stdout
    assert f"next: python -m mulsupcon_tf.finetune --dataset=npz --data_dir={output} --workdir=NEW" in done.stdout
    assert_one_line(forked_binary("embed", output=output), "--workdir", "is required, or --backbone")
    assert_one_line(
        forked_binary("embed", backbone="resnet8", dataset="csv", output=output), "--backbone_weights is required"
    )
