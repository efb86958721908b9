import pathlib
import re

import h5py
import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import dataset_names, load_dataset
from mulsupcon_tf.utils.choices import AUGMENTATIONS
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.helpers.image_folders import write_voc

PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")


def test_the_page_on_datasets_knows_every_augmentation_and_every_dataset_that_is_no_benchmark_of_mulan():
    words = set(PAGE.replace("`", " ").replace(",", " ").replace(":", " ").split())
    assert set(AUGMENTATIONS) <= words
    mulan = set(dataset_names()[dataset_names().index("scene") : dataset_names().index("coco")])
    assert set(dataset_names()) - mulan <= words


def write_train_alone(folder, name):
    features, labels = np.arange(24.0).reshape(12, 2), np.eye(2, dtype=int)[np.arange(12) % 2]
    if name == "npz":
        np.savez(folder / "train.npz", features=features, labels=labels)
    elif name == "hdf5":
        with h5py.File(folder / "train.h5", "w") as file:
            file["feature"], file["target"] = features, labels
    else:
        write_voc(folder / name.upper(), {"train": {"000001": ("cat",)}, "trainval": {"000001": ("cat",)}})


@pytest.mark.parametrize("name", ["npz", "hdf5", "voc2007", "voc2012"])
def test_the_page_names_the_datasets_that_draw_no_test_split(tmp_path, name):
    sentence = re.search(r"[^.]* want a test file or list[^.]*", PAGE)
    assert sentence and f"`{name}`" in sentence[0]
    write_train_alone(tmp_path, name)
    with pytest.raises(InputError, match=r"the word 'test'|/val\.txt"):
        load_dataset(name, str(tmp_path))


def test_the_page_says_which_columns_are_left_out(tmp_path):
    assert "A column without a name is left out where it is empty" in PAGE
    for number in range(4):
        write_photo(tmp_path / f"{number}.jpg", number)
    (tmp_path / "labels.csv").write_text("file,sea,,sky\n0.jpg,1,,0\n1.jpg,0,,1\n2.jpg,1,,1\n3.jpg,0,,0\n")
    assert load_dataset("csv", str(tmp_path)).label_names == ("sea", "sky")
    (tmp_path / "labels.csv").write_text("file,sea,notes\n0.jpg,1,\n1.jpg,0,\n2.jpg,1,\n3.jpg,0,\n")
    with pytest.raises(InputError, match=r"at least one sample .* none for 'notes'"):
        load_dataset("csv", str(tmp_path))
