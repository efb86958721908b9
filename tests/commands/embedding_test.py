"""Features of a dataset by a network without a run; those of a finished run are in finished_run_test."""

import re

import keras
import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.commands import embedding
from mulsupcon_tf.commands.embedding import write_features
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.config.flags import FinetuneConfig
from mulsupcon_tf.config.program_flags import EmbedConfig
from mulsupcon_tf.datasets.base import SPLIT_NAMES
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import assert_one_line
from tests.helpers.forking import forked_binary
from tests.helpers.image_folders import write_coco
from tests.helpers.tiny_datasets import tiny_vectors, write_npz

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")

SIDE = 20


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


def test_photos_that_cannot_be_read_are_named_or_left_out_and_a_failure_leaves_no_folder(network, photos, tmp_path):
    (photos / "sub" / "72.png").write_bytes(b"no image")
    output = tmp_path / "features"
    settings = {"dataset": "csv", "data_dir": str(photos), "output": str(output)}
    with pytest.raises(InputError, match=r"--skip_bad_images leaves the others out. Received: .*72\.png"):
        write_features(config(network, **settings))
    assert not output.exists()
    write_features(config(network, **settings, skip_bad_images=True))
    assert len(arrays_of(output / "validation.npz")["files"]) == 4
    assert (output / "bad_images.txt").read_text().startswith("sub/72.png\t")


def test_an_interruption_leaves_no_folder(network, photos, tmp_path, monkeypatch):
    def interrupted(path, *_, **__):
        if path.name == "validation.npz":
            raise KeyboardInterrupt
        path.touch()

    monkeypatch.setattr(embedding, "write_npz", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_features(config(network, dataset="csv", data_dir=str(photos), output=str(tmp_path / "features")))
    assert not (tmp_path / "features").exists()


def test_what_is_there_is_not_overwritten_and_vectors_have_no_features(network, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.npz").touch()
    with pytest.raises(InputError, match=r"--output must be a new or an empty folder. Received: .*mine"):
        write_features(config(network, dataset="digits", output=str(tmp_path / "mine")))
    vectors = write_npz(tiny_vectors(), tmp_path / "vectors")
    with pytest.raises(InputError, match=r"--backbone=resnet8 takes images. Received: vectors of --dataset=npz"):
        write_features(config(network, dataset="npz", data_dir=str(vectors), output=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


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
