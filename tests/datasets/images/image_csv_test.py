import logging
import os
import tracemalloc
import unicodedata

import numpy as np
import PIL.Image
import pytest

from mulsupcon_tf.datasets.images.image_csv import TABLE
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.datasets.splits_by_hash import place, rows_by_split

PHOTOS = ("a.jpg", "b.png", "trip/c.jpg", "trip/d e.jpg", "Übung.jpg")


@pytest.fixture
def folder(tmp_path):
    for number, photo in enumerate(PHOTOS):
        write_photo(tmp_path / photo, number)
    (tmp_path / "._x.jpg").write_bytes(bytes(24))
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


def lists(*rows):
    return "file,labels,split\n" + "".join(f"{row}\n" for row in rows)


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
    "lists from a spreadsheet with tabs": """file\tlabels\tsplit
a.jpg\tbeach;sea\ttrain
b.png\thot dog\ttrain
trip/c.jpg\tsea\tval
trip/d e.jpg\t\ttest
Übung.jpg\tbeach\ttest
""",
    "lists with bars, and names of columns in other cases": """File,LABELS,Split
a.jpg,beach|sea,train
b.png,hot dog,train
trip/c.jpg,sea,val
trip/d e.jpg,nan,test
Übung.jpg,beach,test
""",
    "lists as Python writes them": """,file,labels,split
0,a.jpg,"['beach', 'sea']",train
1,b.png,['hot dog'],train
2,trip/c.jpg,['sea'],val
3,trip/d e.jpg,[],test
4,Übung.jpg,['beach'],test
""",
    "columns": """file,beach,hot dog,sea,split
a.jpg,1,0,1,train
b.png,0,1,0,train
trip/c.jpg,0,0,1,val
trip/d e.jpg,0,0,0,test
Übung.jpg,1,0,0,test
""",
    "columns as pandas writes them": """Unnamed: 0,file,beach,hot dog,sea,split
0,a.jpg,True,False,True,train
1,b.png,0.0,1.0,0.0,train
2,trip/c.jpg,0,0,1,val
0,trip/d e.jpg,false,FALSE,no,test
1,Übung.jpg,yes,N,f,test
""",
    "columns with decimal commas and empty ones behind": """file;split;beach;hot dog;sea;;
a.jpg;train;1,0;0,0;1,0;;
b.png;train;0,0;1,0;0,0;;
trip\\c.jpg;val;0,0;0,0;1,0;;
trip\\d e.jpg;test;0,0;0,0;0,0;;
Übung.jpg;test;1,0;0,0;0,0;;
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
    empty = "," if header.endswith("split") else ""
    dataset = load(tmp_path / "photos", f"{header}\n" + "".join(f"{name},sea{empty}\n" for name in many))
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


@pytest.mark.parametrize("header", ["file,labels,is_valid", "file,sea,Is_Valid"])
def test_is_valid_says_which_rows_are_validation_and_is_no_label(tmp_path, header):
    for number in range(9):
        write_photo(tmp_path / f"{number}.jpg")
    label = "sea" if "labels" in header else "1"
    text = f"{header}\n" + "".join(f"{number}.jpg,{label},{number % 3 == 0}\n" for number in range(9))
    dataset = load(tmp_path, text)
    assert dataset.label_names == ("sea",)
    found = {file: split for file, (split, _) in truth(dataset, tmp_path).items()}
    assert {file for file, split in found.items() if split == "validation"} == {"0.jpg", "3.jpg", "6.jpg"}
    assert len(dataset.splits["train"]) > 0 and len(dataset.splits["train"]) + len(dataset.splits["test"]) == 6


def test_a_separator_may_be_given(folder):
    text = TABLES["lists"].replace("beach;sea", '"beach,sea"')
    (folder / TABLE).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"Received: 'beach,sea' in .*labels.csv, line 2; --label_separator=, would"):
        load_dataset("csv", data_dir=str(folder))
    assert truth(load_dataset("csv", data_dir=str(folder), label_separator=","), folder) == EXPECTED


def test_labels_that_are_rare_in_train_can_be_left_out(folder, caplog):
    text = lists("a.jpg,sea;beach,train", "b.png,sea;sky,train", "trip/c.jpg,,val", "Übung.jpg,sky;moon;sea,test")
    (folder / TABLE).write_text(text, encoding="utf-8")

    def read(least):
        caplog.clear()
        with caplog.at_level(logging.INFO, "mulsupcon_tf"):
            dataset = load_dataset("csv", data_dir=str(folder), min_label_count=least)
        left_out = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        return dataset.label_names, truth(dataset, folder)["Übung.jpg"], left_out

    place = f"{folder / TABLE}: left out, with fewer than"
    assert read(None) == (("beach", "moon", "sea", "sky"), ("test", {"sky", "moon", "sea"}), [])
    assert read(1) == (("beach", "sea", "sky"), ("test", {"sky", "sea"}), [f"{place} 1 samples: 'moon'"])
    assert read(2) == (("sea",), ("test", {"sea"}), [f"{place} 2 samples: 'beach', 'moon', 'sky'"])
    with pytest.raises(
        InputError, match=r"must leave a label\. Received: 3, while no label is carried by more than 2 s"
    ):
        read(3)


def test_a_column_that_is_never_1_can_be_left_out(folder):
    text = "file,sea,sky\n" + "".join(f"{each},1,0\n" for each in PHOTOS)
    (folder / TABLE).write_text(text, encoding="utf-8")
    assert load_dataset("csv", data_dir=str(folder), min_label_count=1).label_names == ("sea",)


def test_a_label_that_train_lacks_is_a_warning_and_a_likely_slip_is_asked_about(folder, caplog):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        dataset = load(folder, lists("a.jpg,sea;beach,train", "b.png,baech,test", "trip/c.jpg,moon,val"))
    assert dataset.label_names == ("baech", "beach", "moon", "sea")
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / TABLE}, line 3: no image of train carries 'baech'; is 'beach' meant?",
        "csv: no positive in train, so it cannot be learnt: 'baech', 'moon'; no positive in validation: 'baech', 'beach', 'sea'; "
        "no positive in test, so it cannot be judged: 'beach', 'moon', 'sea'",
    ]


def test_a_photo_is_read_by_a_name_with_any_space(folder):
    """macOS names screenshots with U+202F before PM."""
    name = "Screenshot 2024-05-01 at 3.00.00\u202fPM.png"
    write_photo(folder / name, 3)
    dataset = load(folder, lists(A, B, f"{name},sea,train", "Übung.jpg,beach,val"))
    assert truth(dataset, folder)[name] == ("train", {"sea"})


def test_a_label_with_a_column_may_be_missing_from_train_and_is_warned_of(folder, caplog):
    with caplog.at_level(logging.WARNING, "mulsupcon_tf"):
        load(folder, TABLES["columns"].replace("b.png,0,1,0", "b.png,0,0,0").replace("Übung.jpg,1,0", "Übung.jpg,1,1"))
    assert "no positive in train, so it cannot be learnt: 'hot dog'" in caplog.text


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
    "absent beside a file manager's": (
        lists("x.jpg,sea,train"),
        r"'x.jpg' missing in .*\(nearest: '[ab]\.(jpg|png)'\)",
    ),
    "two absent": (lists("x/1.jpg,sea,train", A, "x/2.jpg,sea,test"), "'x/1.jpg' missing .*, line 2, and 1 more$"),
    "split": (lists(A, "b.png,sea,tset"), r"Received: 'tset' in .*, line 3 \(nearest: 'test'\)"),
    "some without split": (lists(A, "b.png,sea,"), "Received: none in .*, line 3"),
    "no train": (lists("a.jpg,sea,val", B), "Received: only test, validation in"),
    "case": (lists(A, "b.png,Beach,train"), "Received: 'beach' and 'Beach' in .*, lines 2 and 3"),
    "inner spaces": (
        lists("a.jpg,hot dog,train", "b.png,hot  dog,train"),
        "'hot dog' and 'hot  dog' in .*, lines 2 and 3",
    ),
    "nothing in train": (lists("a.jpg,,train", B), "an image of train must carry a label. Received: none .*labels.csv"),
    "no 1 in train": ("file,sea,split\na.jpg,0,train\nb.png,1,test\n", "an image of train must carry a label"),
    "no labels at all": (lists("a.jpg,,train", "b.png,,test"), "at least one label"),
    "value": ("file,sea,sky\na.jpg,1,0\nb.png,1,maybe\n", "Received: 'maybe' in .*, line 3, column 'sky'"),
    "a share": ("file,sea,sky\na.jpg,1,0.5\n", "Received: '0.5' in .*, line 2, column 'sky'"),
    "nearly 1": ("file,sea,sky\na.jpg,1,0.9999999\n", "Received: '0.9999999' in .*, line 2, column 'sky'"),
    "not known": ("file,sea,sky\na.jpg,1,nan\n", "Received: 'nan' in .*, line 2, column 'sky'"),
    "is_valid": ("file,labels,is_valid\na.jpg,sea,2\n", "Received: '2' in .*, line 2, column 'is_valid'"),
    "all is_valid": ("file,sea,is_valid\na.jpg,1,True\n", "Received: only validation in"),
    "two splits": ("file,labels,split,is_valid\na.jpg,sea,train,0\n", "Received: split and is_valid in .*, line 1"),
    "two files": ("file,File,labels\na.jpg,b.png,sea\n", "Received: file in .*, line 1"),
    "is_test": ("file,sea,is_test\na.jpg,1,0\n", "Received: 'is_test', which would be a label, in .*, line 1"),
    "no value": ("file,sea,is_valid\na.jpg,1,\n", "Received: '' in .*, line 2, column 'is_valid'"),
    "columns by case": ("file,sea,Sea\na.jpg,1,0\n", "Received: 'sea' and 'Sea' in .*, lines 1 and 1"),
    "column never 1": ("file,sea,sky\n" + "".join(f"{each},1,0\n" for each in PHOTOS), "Received: none for 'sky'"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_wrong_tables_are_one_line_that_names_the_place(folder, text, message):
    with pytest.raises(InputError, match=message) as caught:
        load(folder, text)
    assert "\n" not in str(caught.value)
    assert "Received: " in str(caught.value)


def test_a_folder_without_a_table_is_refused_with_both_headers(folder):
    with pytest.raises(InputError, match=r"file,labels\[,split\] or file,<label>,.* Received: no such file in"):
        load_dataset("csv", data_dir=str(folder))


def test_links_are_followed_and_what_leads_nowhere_or_back_or_is_no_file_is_missing(folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    write_photo(store / "x.jpg", 7)
    (folder / "linked.jpg").symlink_to(store / "x.jpg")
    (folder / "below").symlink_to(store)
    dataset = load(folder, lists(A, B, "linked.jpg,sea,train", "below/x.jpg,beach,train"))
    found = truth(dataset, folder)
    assert found["linked.jpg"] == ("train", {"sea"}) and found["below/x.jpg"] == ("train", {"beach"})
    (folder / "gone.jpg").symlink_to(store / "gone.jpg")
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "itself").symlink_to("itself")
    os.mkfifo(folder / "pipe.jpg")  # to open one waits for ever
    dataset.fingerprint()  # they do not matter as long as no row names them
    for name in ("gone.jpg", "itself.jpg", "itself/a.jpg", "pipe.jpg"):
        with pytest.raises(InputError, match=f"must be an existing file. Received: '{name}' missing in .*, line 4"):
            load(folder, lists(A, B, f"{name},sea,train"))


def test_a_name_with_its_accents_in_another_form_is_said_to_look_alike(folder):
    composed, decomposed = (unicodedata.normalize(form, "Übung.jpg") for form in ("NFC", "NFD"))
    with pytest.raises(
        InputError, match=f"{decomposed!r} missing .*there is {composed!r}, which looks alike.*NFC or NFD"
    ):
        load(folder, lists(A, f"{decomposed},sea,train"))


@pytest.mark.parametrize("blank", ["-1", "", "?"])
def test_a_table_that_writes_something_else_for_0_is_refused(folder, blank):
    """As CelebA's table has -1, and a spreadsheet in which only the ones are filled in has nothing."""
    rows = [f"{photo},1,{blank}" if number % 2 else f"{photo},{blank},1" for number, photo in enumerate(PHOTOS)]
    with pytest.raises(
        InputError, match=r"write 0, not -1 or nothing, .* Received: never 0 in dataset 'csv': 'sea', 'sky'$"
    ):
        load(folder, "\n".join(["file,sea,sky", *rows]))
    rows[0] = f"{PHOTOS[0]},0,1"  # of one label it is enough
    assert load(folder, "\n".join(["file,sea,sky", *rows])).num_unknown == 4


@pytest.mark.parametrize("twin", [unicodedata.normalize("NFD", "Übung"), "Übung\u200b"])
@pytest.mark.parametrize("layout", ["lists", "columns"])
def test_labels_that_look_alike_are_a_slip_in_both_layouts(folder, layout, twin):
    tables = {"lists": lists("a.jpg,Übung,train", f"b.png,{twin},train"), "columns": f"file,Übung,{twin}\na.jpg,1,0\n"}
    with pytest.raises(InputError, match=r"what is not seen\. Received: .* against .*\)$"):
        load(folder, tables[layout])


def test_many_labels_take_a_few_times_the_memory_of_their_array(tmp_path):
    count = 2000
    for number in range(count):
        (tmp_path / f"{number}.jpg").touch()
    rows = [f"{number}.jpg,l{number};l{(number + 1) % count}" for number in range(count)]
    (tmp_path / TABLE).write_text("\n".join(["file,labels", *rows]))
    load_dataset("csv", str(tmp_path))  # what is imported on the way does not count
    tracemalloc.start()
    try:
        dataset = load_dataset("csv", str(tmp_path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(int(split.labels.sum()) for split in dataset.splits.values()) == 2 * count
    assert peak < 6 * count**2  # uint8; the text of the table included
