import inspect
import subprocess
import sys

import numpy as np
import pytest

from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.datasets.images import digits
from mulsupcon_tf.datasets.registry import dataset_kind, dataset_names, load_dataset
from mulsupcon_tf.utils.errors import InputError

MULAN = [
    "scene",
    "yeast",
    "emotions",
    "corel5k",
    "delicious",
    "enron",
    "bibtex",
    "medical",
    "bookmarks",
    "mediamill",
    "tmc2007-500",
    "cal500",
    "birds",
    "genbase",
]


def test_names_and_kinds():
    assert set(dataset_names()) >= {"digits", "arff", "hdf5", "npz", *MULAN}
    assert dataset_kind("digits") == "image"
    assert {dataset_kind(name) for name in ("arff", *MULAN)} == {"vector"}
    assert dataset_kind("hdf5") is dataset_kind("npz") is None


@pytest.mark.parametrize("ask", [dataset_kind, load_dataset])
@pytest.mark.parametrize(("name", "hint"), [("Scene", "scene"), ("corel-5k", "corel5k"), ("digit", "digits")])
def test_an_unknown_name_gets_the_nearest_one_and_the_list(ask, name, hint):
    with pytest.raises(InputError) as caught:
        ask(name)
    message = str(caught.value)
    assert message.endswith(f"Received: {name!r} (nearest: {hint!r})")
    assert all(known in message for known in dataset_names())


@pytest.mark.parametrize("name", [name for name in dataset_names() if name != "digits"])
def test_every_name_has_a_loader_that_minds_a_missing_folder(name, tmp_path):
    with pytest.raises(InputError, match="--data_dir must be an existing folder"):
        load_dataset(name, data_dir=str(tmp_path / "absent"))


def test_the_embedded_dataset_may_be_given_the_folder_of_others_beside_it(monkeypatch):
    """One `--data_dir` of an experiment is that of all its datasets; `--data_dir` alone is refused with the flags."""
    for split in digits.SCENES:
        monkeypatch.setitem(digits.SCENES, split, 9)
    assert load_dataset("digits", "absent").fingerprint() == load_dataset("digits").fingerprint()


@pytest.mark.parametrize("name", [name for name in dataset_names() if name != "csv"])
@pytest.mark.parametrize("option", [{"label_separator": ","}, {"min_label_count": 2}])
def test_an_option_that_a_dataset_does_not_take_is_refused(name, option):
    ((key, value),) = option.items()
    with pytest.raises(InputError) as caught:
        load_dataset(name, **option)
    assert str(caught.value) == f"--{key} belongs to --dataset=csv. Received: --{key}={value} --dataset={name}"


def test_python_refuses_what_the_flag_refuses_in_the_same_words(tmp_path):
    with pytest.raises(InputError) as by_flag:
        PretrainConfig(dataset="csv", min_label_count=0)
    with pytest.raises(InputError) as by_python:
        load_dataset("csv", tmp_path, min_label_count=0)
    assert str(by_python.value) == str(by_flag.value)


def test_the_folder_is_named_in_place_or_by_name_and_how_to_read_by_name_only(tmp_path):
    arrays = {"features": np.arange(24.0).reshape(12, 2), "labels": np.eye(2, dtype=int)[np.arange(12) % 2]}
    for role in ("train", "validation", "test"):
        arrays["features"] = arrays["features"] + 100  # no sample stands in two splits
        np.savez(tmp_path / f"{role}.npz", **arrays)
    expected = load_dataset("npz", data_dir=str(tmp_path)).fingerprint()
    assert load_dataset("npz", tmp_path).fingerprint() == expected
    parameters = inspect.signature(load_dataset).parameters.values()
    assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == ["name", "data_dir"]


def test_listing_the_names_imports_nothing_heavy():
    code = (
        "import sys, mulsupcon_tf.datasets.registry as registry; registry.dataset_names(); "
        "print([name for name in ('tensorflow', 'keras', 'sklearn', 'h5py', 'arff') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_loading_by_name(shared_data):
    dataset = load_dataset("yeast", data_dir=str(shared_data / "mulan"))
    assert (dataset.name, dataset.kind, dataset.num_labels, dataset.input_shape) == ("yeast", "vector", 14, (103,))
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 1200,
        "validation": 300,
        "test": 917,
    }
