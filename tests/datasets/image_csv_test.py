import logging

import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.datasets.image_csv import TABLE
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.datasets.splits_by_hash import place, rows_by_split

PHOTOS = ("a.jpg", "b.png", "trip/c.jpg", "trip/d e.jpg", "Übung.jpg")


@pytest.fixture
def folder(tmp_path):
    for number, photo in enumerate(PHOTOS):
        write_photo(tmp_path / photo, number)
    return tmp_path


def load(folder, text):
    (folder / TABLE).write_text(text, encoding="utf-8")
    return load_dataset("csv", data_dir=str(folder))


def truth(dataset, folder):
    """Maps each file to its split and label names, to compare with what the table says."""
    found = {}
    for name, split in dataset.splits.items():
        for path, row in zip(split.inputs.paths, split.labels, strict=True):
            labels = {dataset.label_names[column] for column in np.flatnonzero(row)}
            found[path.removeprefix(f"{folder}/")] = (name, labels)
    return found


EXPECTED = {
    "a.jpg": ("train", {"beach", "sea"}),
    "b.png": ("train", {"hot dog"}),
    "trip/c.jpg": ("validation", {"sea"}),
    "trip/d e.jpg": ("test", set()),
    "Übung.jpg": ("test", {"beach"}),
}
TABLES = {
    "lists": """file,labels,split
a.jpg,beach;sea,train
b.png,hot dog,train
trip/c.jpg,sea,val
trip/d e.jpg,,test
Übung.jpg,beach,test
""",
    "lists as people type them": """split, labels ,file
Train, sea ; beach;sea; ,./a.jpg
train,hot dog,b.png
validation,sea,trip\\c.jpg

,,
TEST,,trip/d e.jpg
test,beach,Übung.jpg
""",
    "lists from a spreadsheet with semicolons": """file;labels;split
a.jpg;"beach;sea";train
b.png;hot dog;train
trip/c.jpg;sea;val
"trip/d e.jpg";;test
Übung.jpg;beach;test
""",
    "columns": """file,beach,hot dog,sea,split
a.jpg,1,0,1,train
b.png,0,1,0,train
trip/c.jpg,0,0,1,val
trip/d e.jpg,0,0,0,test
Übung.jpg,1,0,0,test
""",
    "columns from a spreadsheet with semicolons": """file;split;beach;hot dog;sea
a.jpg;train;1;0;1
b.png;train;0;1;0
trip\\c.jpg;val;0;0;1
trip\\d e.jpg;test;0;0;0
Übung.jpg;test;1;0;0
""",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_every_layout_gives_the_same_dataset(folder, text):
    dataset = load(folder, text)
    assert truth(dataset, folder) == EXPECTED
    assert dataset.label_names == ("beach", "hot dog", "sea")
    assert (dataset.kind, dataset.input_shape, dataset.on_disk) == ("image", (None, None, 3), True)


def test_the_listed_images_can_be_opened(folder):
    for split in load(folder, TABLES["lists"]).splits.values():
        for path in split.inputs.paths:
            assert PIL.Image.open(path).size == (8, 6)


def test_label_columns_keep_the_order_of_the_header(folder):
    text = "file,sea,beach\n" + "".join(f"{photo},1,1\n" for photo in PHOTOS)
    assert load(folder, text).label_names == ("sea", "beach")


@pytest.fixture
def many(tmp_path):
    """The names of 60 photos in two folders of a folder `photos`."""
    names = [f"{'beach' if number % 2 else 'Küste'}/{number}.jpg" for number in range(60)]
    for name in names:
        write_photo(tmp_path / "photos" / name)
    return names


@pytest.mark.parametrize("header", ["file,labels", "file,labels,split"])
def test_without_splits_the_name_of_each_photo_decides(tmp_path, many, header):
    blank = "," if header.endswith("split") else ""
    dataset = load(tmp_path / "photos", f"{header}\n" + "".join(f"{name},sea{blank}\n" for name in many))
    assert rows_by_split(dataset) == {name: place(name) for name in many}


def test_photos_that_are_added_move_no_other_nor_do_another_order_folder_or_label(tmp_path, many):
    folder = tmp_path / "photos"
    before = rows_by_split(load(folder, "file,labels\n" + "".join(f"{name},sea\n" for name in many[:52])))
    new_order = np.random.default_rng(0).permutation(60)
    moved = folder.rename(tmp_path / "elsewhere")
    after = rows_by_split(load(moved, "file,sky\n" + "".join(f"{many[number]},1\n" for number in new_order)))
    assert len(before) == 52 and len(after) == 60
    assert before.items() <= after.items()
    assert set(before.values()) == {"train", "validation", "test"}


def test_the_same_photos_are_validation_where_only_test_is_named(tmp_path, many):
    folder = tmp_path / "photos"
    drawn = rows_by_split(load(folder, "file,labels\n" + "".join(f"{name},sea\n" for name in many)))
    parts = {name: "test" if part == "test" else "train" for name, part in drawn.items()}
    named = load(folder, "file,labels,split\n" + "".join(f"{name},sea,{part}\n" for name, part in parts.items()))
    assert rows_by_split(named) == drawn


def test_a_validation_split_is_carved_where_only_train_and_test_are_named(folder):
    dataset = load(folder, TABLES["lists"].replace("trip/c.jpg,sea,val", "trip/c.jpg,sea,train"))
    assert len(dataset.splits["train"]) + len(dataset.splits["validation"]) == 3
    assert [len(dataset.splits[name]) > 0 for name in ("train", "validation")] == [True, True]
    assert len(dataset.splits["test"]) == 2


def test_a_label_with_a_column_may_be_missing_from_train_and_is_warned_of(folder, caplog):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        load(folder, TABLES["columns"].replace("b.png,0,1,0", "b.png,0,0,0").replace("Übung.jpg,1,0", "Übung.jpg,1,1"))
    assert "no positive in train, so it cannot be learnt: 'hot dog'" in caplog.text


def lists(*rows):
    return "file,labels,split\n" + "".join(f"{row}\n" for row in rows)


A, B = "a.jpg,sea;beach,train", "b.png,sea,test"
BAD = {
    "only a header": ("file,labels\n", "at least one image. Received: only a header"),
    "header without labels": ("file,split\na.jpg,train\n", "a column 'labels', or one column a label.*line 1"),
    "more than lists": ("file,labels,date\na.jpg,sea,1\n", "Received: 'date' in .*, line 1"),
    "unquoted list": ("file;labels\na.jpg;sea;beach\n", r"Received: 3 in .*, line 2 \(a text that holds the sep"),
    "twice": (lists(A, B, "./a.jpg,sea,test"), "'a.jpg' twice in .*, lines 2 and 4"),
    "twice with backslash": (lists("trip/c.jpg,sea,train", "trip\\c.jpg,,train"), "'trip/c.jpg' twice"),
    "no file": (lists(A, ",sea,train"), "Received: '' in .*, line 3"),
    "parent": (lists(A, "../x.jpg,sea,train"), "Received: '../x.jpg' in .*, line 3"),
    "parent within": (lists(A, "trip\\..\\..\\x.jpg,sea,train"), "path inside .*line 3"),
    "absolute": (lists(A, "/etc/x.jpg,sea,train"), "Received: '/etc/x.jpg'"),
    "drive": (lists(A, "C:\\x.jpg,sea,train"), "path inside "),
    "absent": (lists(A, "b.jpg,sea,test"), r"'b.jpg' missing in .*, line 3 \(nearest: '(a.jpg|b.png)'\)"),
    "two absent": (lists("x/1.jpg,sea,train", A, "x/2.jpg,sea,test"), "'x/1.jpg' missing .*, line 2, and 1 more$"),
    "split": (lists(A, "b.png,sea,tset"), r"Received: 'tset' in .*, line 3 \(nearest: 'test'\)"),
    "some without split": (lists(A, "b.png,sea,"), "Received: none in .*, line 3"),
    "no train": (lists("a.jpg,sea,val", B), "Received: only test, validation in"),
    "case": (lists(A, "b.png,Beach,train"), "Received: 'beach' and 'Beach' in .*, lines 2 and 3"),
    "inner blanks": (
        lists("a.jpg,hot dog,train", "b.png,hot  dog,train"),
        "'hot dog' and 'hot  dog' in .*, lines 2 and 3",
    ),
    "unknown in test": (lists(A, "b.png,baech,test"), r"Received: 'baech' in .*, line 3 \(nearest: 'beach'\)"),
    "nothing in train": (lists("a.jpg,,train", B), "Received: 'sea' in .*, line 3$"),
    "no labels at all": (lists("a.jpg,,train", "b.png,,test"), "at least one label"),
    "value": ("file,sea,sky\na.jpg,1,0\nb.png,1,yes\n", "Received: 'yes' in .*, line 3, column 'sky'"),
    "no value": ("file,sea,sky\na.jpg,1,\n", "Received: '' in .*, line 2, column 'sky'"),
    "columns by case": ("file,sea,Sea\na.jpg,1,0\n", "Received: 'sea' and 'Sea' in .*, lines 1 and 1"),
    "column never 1": ("file,sea,sky\n" + "".join(f"{each},1,0\n" for each in PHOTOS), "Received: none for 'sky'"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_wrong_tables_are_one_line_that_names_the_place(folder, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load(folder, text)
    assert "\n" not in str(caught.value)
    assert "Received: " in str(caught.value)


def test_a_folder_without_a_table_is_told_both_headers(folder):
    with pytest.raises(InputError, match=r"file,labels\[,split\] or file,<label>,.* Received: no such file in"):
        load_dataset("csv", data_dir=str(folder))
