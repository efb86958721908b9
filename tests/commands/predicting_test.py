import csv
import io
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.commands.predicting import predict, predicted_lines
from mulsupcon_tf.config.program_flags import PredictConfig
from mulsupcon_tf.serving.saved_model import write_saved_model
from mulsupcon_tf.serving.served_model import ServedModel
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.image_file_sets import as_judged
from tests.helpers.tiny_datasets import IMAGE_SHAPE, LABEL_NAMES, tiny_images, tiny_vectors

THRESHOLDS = {"macro_f1": 0.99, "micro_f1": 0.01, "hamming_accuracy": 0.99, "example_f1": 0.5}
VECTORS = tiny_vectors().splits["test"].inputs
PIXELS = tiny_images().splits["test"].inputs

pytestmark = pytest.mark.usefixtures("each_model_is_read_once")


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for kind, model in models.items():
        write_saved_model(model, folder / kind, label_names=LABEL_NAMES, thresholds=THRESHOLDS)
    return {kind: str(folder / kind) for kind in models}


def records(folder, *files, batch_size=4):
    return list(predict(PredictConfig(saved_model=folder, batch_size=batch_size), [str(file) for file in files]))


def expected_of(model, samples):
    return model.embed_and_classify(tf.constant(samples, tf.float32))[0].numpy()


def assert_records(got, keys, probabilities):
    assert [{name: record[name] for name in record if name in ("file", "row")} for record in got] == keys
    values = [[record["probabilities"][name] for name in LABEL_NAMES] for record in got]
    np.testing.assert_allclose(values, probabilities, atol=1e-5)
    for record, row in zip(got, probabilities, strict=True):
        assert record["labels"] == [name for name, value in zip(LABEL_NAMES, row, strict=True) if value > 0.5]


def refusal(folder, *files):
    with pytest.raises(InputError) as raised:
        records(folder, *files)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_each_row_of_vectors_gets_a_record(models, exported, tmp_path):
    np.save(tmp_path / "many.npy", VECTORS)
    np.save(tmp_path / "one.npy", VECTORS[3].astype(np.float64))
    np.savetxt(tmp_path / "some.csv", VECTORS[:3], delimiter=",")
    files = [tmp_path / name for name in ("many.npy", "one.npy", "some.csv")]
    keys = [
        *({"file": str(files[0]), "row": row} for row in range(len(VECTORS))),
        {"file": str(files[1]), "row": 0},
        *({"file": str(files[2]), "row": row} for row in range(3)),
    ]
    samples = np.concatenate([VECTORS, VECTORS[3:4], VECTORS[:3]])
    for batch_size in (1, 5, 64):
        got = records(exported["vector"], *files, batch_size=batch_size)
        assert_records(got, keys, expected_of(models["vector"], samples))
    assert len({tuple(record["labels"]) for record in got}) > 1


def test_a_probability_that_is_the_threshold_in_float32_gives_no_label(models, exported, tmp_path):
    """As in choosing and judging, where thresholds are numbers of float64."""
    loaded = tf.saved_model.load(exported["vector"])
    given = loaded.signatures["serving_default"](features=tf.constant(VECTORS[:1]))["probabilities"].numpy()[0]
    thresholds = dict.fromkeys(THRESHOLDS, float(given[0]) - 1e-10)
    assert given[0].astype(np.float64) > thresholds["example_f1"] and given[0] == np.float32(thresholds["example_f1"])
    write_saved_model(models["vector"], tmp_path / "model", label_names=LABEL_NAMES, thresholds=thresholds)
    np.save(tmp_path / "one.npy", VECTORS[0])
    (record,) = records(str(tmp_path / "model"), tmp_path / "one.npy")
    assert record["labels"] == [name for name, value in zip(LABEL_NAMES, given, strict=True) if value > given[0]]


def test_each_image_file_gets_a_record(models, exported, tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "b.PNG", "c.jpeg", "d.bmp", "e.gif", "f.webp")]
    for index, file in enumerate(files):
        Image.fromarray(PIXELS[index]).resize((20 + index, 30)).save(file)
    height, width, _ = IMAGE_SHAPE
    images = [as_judged(file, (height, width)) for file in files]
    got = records(exported["image"], *files)
    assert_records(got, [{"file": str(file)} for file in files], expected_of(models["image"], np.stack(images)))


def test_a_file_without_rows_gives_no_records(exported, tmp_path):
    np.save(tmp_path / "none.npy", VECTORS[:0])
    assert not records(exported["vector"], tmp_path / "none.npy")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_images_that_are_broken_take_no_answer_from_the_others(models, exported, tmp_path, batch_size):
    names = ["a.png", "text.jpg", "b.png", "empty.png", "cut.png", "c.png"]
    for index, name in enumerate(names):
        Image.fromarray(PIXELS[index]).save(tmp_path / name)
    cut = (tmp_path / "cut.png").read_bytes()[:40]
    for name, content in (("text.jpg", b"hello"), ("empty.png", b""), ("cut.png", cut)):
        (tmp_path / name).write_bytes(content)
    files = [str(tmp_path / name) for name in names]
    got = []
    with pytest.raises(InputError) as raised:
        for record in predict(PredictConfig(saved_model=exported["image"], batch_size=batch_size), files):
            got.append(record)
    assert_records(
        got, [{"file": files[index]} for index in (0, 2, 5)], expected_of(models["image"], PIXELS[[0, 2, 5]])
    )
    assert str(raised.value) == (
        "Each file must be a whole JPEG, PNG, GIF, BMP or WebP. "
        f"Received: {files[1]} (an image must be a JPEG, PNG, GIF, BMP or WebP, not another kind of file); "
        f"also no answer for {files[3]}, {files[4]}"
    )


@pytest.mark.parametrize(
    ("name", "kept", "reason"),
    [
        ("a.png", 0, "it is empty"),
        ("a.png", 40, "Invalid PNG. Failed to initialize decoder."),
        ("a.jpg", 300, "Invalid JPEG data, size 300"),
        ("a.bmp", 200, "a BMP must hold all of its pixels, not a part"),
    ],
)
def test_an_image_that_is_cut_off_is_named_with_the_reason(exported, tmp_path, name, kept, reason):
    Image.fromarray(PIXELS[0]).save(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:kept])
    assert refusal(exported["image"], tmp_path / name).endswith(f"Received: {tmp_path / name} ({reason})")


def test_files_of_vectors_that_are_broken_take_no_answer_from_the_others(models, exported, tmp_path):
    np.save(tmp_path / "a.npy", VECTORS[:3])
    np.save(tmp_path / "short.npy", VECTORS[:, :9])
    np.save(tmp_path / "b.npy", VECTORS[3:5])
    files = [str(tmp_path / name) for name in ("a.npy", "short.npy", "b.npy")]
    got = []
    with pytest.raises(InputError, match=r"10 features. Received: .*short.npy of shape \(24, 9\)$"):
        for record in predict(PredictConfig(saved_model=exported["vector"]), files):
            got.append(record)
    keys = [
        *({"file": files[0], "row": row} for row in range(3)),
        *({"file": files[2], "row": row} for row in range(2)),
    ]
    assert_records(got, keys, expected_of(models["vector"], VECTORS[:5]))


def csv_of(rows):
    return "".join(",".join(map(repr, map(float, row))) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("bom.csv", "\ufeff"),
        ("names.csv", ",".join(f"f{column}" for column in range(10)) + "\n"),
        ("both.CSV", '\ufeff"my name",' + ",".join(['"x"'] * 9) + "\n"),
        ("savetxt.csv", "# written by a program\n"),
        ("blank.csv", "\n"),
        ("pandas.csv", "0,1,2,3,4,5,6,7,8,9\n"),  # DataFrame(vectors).to_csv(index=False)
        ("from_one.csv", "\ufeff1, 2, 3, 4, 5, 6, 7, 8, 9, 10\n\n"),
    ],
)
def test_a_byte_order_mark_and_names_of_columns_are_no_numbers(models, exported, tmp_path, name, start):
    (tmp_path / name).write_text(start + csv_of(VECTORS[:3]), encoding="utf-8")
    got = records(exported["vector"], tmp_path / name)
    keys = [{"file": str(tmp_path / name), "row": row} for row in range(3)]
    assert_records(got, keys, expected_of(models["vector"], VECTORS[:3]))


@pytest.mark.parametrize(("first", "read"), [("0", False), ("1", True)])
def test_a_first_line_that_may_be_a_vector_or_number_the_columns_is_never_silently_either(
    exported, tmp_path, caplog, first, read
):
    """Counts of words, say, of which a table without names was made, are whole numbers as its header is."""
    file = tmp_path / "counts.csv"
    counted = ",".join(str(int(first) + column) for column in range(10))
    for text, count in ((f"{counted}\n{'3,' * 9}4\n", 2), (f"{counted}\n", 1)):
        file.write_text(text)
        caplog.clear()
        if read:
            assert len(records(exported["vector"], file)) == count
            said = "its first line, which counts from 1 to 10, is read as a vector; names of columns are no numbers"
            assert caplog.messages == [f"{file}: {said}"]
        else:
            assert refusal(exported["vector"], file).endswith(
                f"Received: {file} with its first line, which counts from 0 to 9, and no fraction to tell it from a vector"
            )
    file.write_text("0.0," + counted.partition(",")[2])
    assert len(records(exported["vector"], file)) == 1


def test_a_header_of_numbers_is_said(exported, tmp_path, caplog):
    file = tmp_path / "pandas.csv"
    file.write_text("0,1,2,3,4,5,6,7,8,9\n" + csv_of(VECTORS[:1]))
    assert len(records(exported["vector"], file)) == 1
    assert caplog.messages == [
        f"{file}: its first line, which counts from 0 to 9, numbers the columns and is no vector"
    ]


def test_an_ending_in_capitals_is_the_same_ending(models, exported, tmp_path):
    np.save(tmp_path / "many.npy", VECTORS[:2])
    file = (tmp_path / "many.npy").rename(tmp_path / "many.NPY")
    keys = [{"file": str(file), "row": row} for row in range(2)]
    assert_records(records(exported["vector"], file), keys, expected_of(models["vector"], VECTORS[:2]))


def save_text(text):
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("name", "write", "parts"),
    [
        ("short.npy", lambda path: np.save(path, VECTORS[:, :9]), ["10 features", "short.npy of shape (24, 9)"]),
        ("deep.npy", lambda path: np.save(path, VECTORS[None]), ["10 features", "of shape (1, 24, 10)"]),
        ("number.npy", lambda path: np.save(path, np.float32(3)), ["10 features", "of shape (1, 1)"]),
        (
            "nan.npy",
            lambda path: np.save(path, np.where(np.arange(24)[:, None] == 5, np.nan, VECTORS)),
            ["finite", "NaN or infinity in row 5"],
        ),
        ("huge.npy", lambda path: np.save(path, np.full((2, 10), 1e300)), ["finite", "in row 0"]),
        ("texts.npy", lambda path: np.save(path, np.full((2, 10), "a")), ["numbers only", "texts.npy"]),
        ("complex.npy", lambda path: np.save(path, np.full((2, 10), 1j)), ["numbers only", "complex.npy"]),
        ("objects.npy", lambda path: np.save(path, np.full((2, 10), None), allow_pickle=True), ["numbers only"]),
        ("empty.npy", save_text(""), ["numbers only", "empty.npy"]),
        ("text.npy", save_text("1,2,3"), ["numbers only", "text.npy"]),
        ("header.csv", save_text("a,b\n1,2\n"), ["10 features", "header.csv of shape (1, 2)"]),
        ("names.csv", save_text("a,b\n"), ["10 features", "names.csv of shape (0, 1)"]),
        ("twice.csv", save_text("a,b\na,b\n1,2\n"), ["numbers only", "twice.csv"]),
        ("mixed.csv", save_text("a,2\n1,2\n"), ["numbers only", "mixed.csv"]),
        ("missing.csv", save_text("?,NA\n1,2\n"), ["numbers only", "missing.csv"]),
        ("hidden.csv", save_text("#1,2\n1,2\n"), ["numbers only", "hidden.csv"]),
        ("remark.csv", save_text("1,2\n# 3,4\n5,6\n"), ["numbers only", "remark.csv"]),
        ("latin.csv", lambda path: path.write_bytes(b"caf\xe9,b\n1,2\n"), ["numbers only", "latin.csv"]),
        ("ragged.csv", save_text("1,2\n1,2,3\n"), ["numbers only", "ragged.csv"]),
        ("nan.csv", save_text("1,2,3,4,5,6,7,8,9,10\n1,2,3,4,5,6,7,8,9,nan\n"), ["finite", "in row 1"]),
        ("narrow.csv", save_text("1,2,3\n"), ["10 features", "of shape (1, 3)"]),
        ("nothing.csv", save_text(""), ["10 features", "nothing.csv of shape (0,"]),
        ("picture.jpg", lambda path: Image.fromarray(PIXELS[0]).save(path), ["numbers only", "picture.jpg"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_a_vector_is_named(exported, tmp_path, name, write, parts):
    write(tmp_path / name)
    message = refusal(exported["vector"], tmp_path / name)
    for part in parts:
        assert part in message


def test_an_archive_under_the_name_of_an_array_is_named(exported, tmp_path):
    np.savez(tmp_path / "archive.npz", VECTORS)
    renamed = (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    assert "numbers only" in refusal(exported["vector"], renamed)


def test_missing_files_are_refused_before_the_model_is_read(exported, tmp_path):
    np.save(tmp_path / "good.npy", VECTORS)
    missing = tmp_path / "missing.npy"
    assert refusal("/nowhere", tmp_path / "good.npy", missing) == f"Each file must exist. Received: {missing}"
    pattern = tmp_path / "*.npz"
    assert refusal("/nowhere", pattern) == f"Each pattern must match a file. Received: {pattern}"
    assert refusal("/nowhere", tmp_path / "good.npy").startswith("--saved_model must be a folder written by export")
    assert "Received: no file" in refusal(exported["vector"])


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Four images in two folders, beside what is none and what is hidden; and the row of `PIXELS` of each image."""
    folder = tmp_path_factory.mktemp("album")
    rows = {"b.PNG": 0, "a[1].bmp": 1, "trip/c.png": 2, "trip/d.gif": 3}
    (folder / "trip" / ".hidden").mkdir(parents=True)
    for name, row in rows.items():
        Image.fromarray(PIXELS[row]).save(folder / name)
    Image.fromarray(PIXELS[0]).save(folder / "trip" / ".hidden" / "e.png")
    (folder / "trip" / "notes.txt").write_text("no image")
    return folder, rows


def files_and_rows(folder, got):
    return [record["file"].removeprefix(f"{folder}/") for record in got]


def test_a_folder_stands_for_the_images_below_it(models, exported, album):
    folder, rows = album
    got = records(exported["image"], folder)
    assert files_and_rows(folder, got) == ["a[1].bmp", "b.PNG", "trip/c.png", "trip/d.gif"]
    exact = [record for record in got if not record["file"].endswith(".gif")]  # GIF has its own colours
    order = [rows[name] for name in files_and_rows(folder, exact)]
    keys = [{"file": record["file"]} for record in exact]
    assert_records(exact, keys, expected_of(models["image"], PIXELS[order]))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", []),
        ("trip/*.*g*", ["trip/c.png", "trip/d.gif"]),
        ("**/*.png", ["trip/c.png"]),
        ("[ab]*", ["a[1].bmp", "b.PNG"]),
        ("a[1].bmp", ["a[1].bmp"]),  # a file of that name is no pattern
        ("t?ip", ["trip/c.png", "trip/d.gif"]),
        ("**", ["a[1].bmp", "b.PNG", "trip/c.png", "trip/d.gif"]),  # once, though their folders match too
    ],
)
def test_a_pattern_stands_for_what_it_matches(exported, album, pattern, names):
    folder, _ = album
    if names:
        assert files_and_rows(folder, records(exported["image"], folder / pattern)) == names
    else:
        assert refusal(exported["image"], folder / pattern).startswith("Each pattern must match a file")


def test_photos_of_a_folder_that_no_decoder_reads_are_counted(exported, tmp_path, caplog):
    Image.fromarray(PIXELS[0]).save(tmp_path / "a.png")
    for name in ("b.HEIC", "c.tiff", "notes.txt"):
        (tmp_path / name).touch()
    assert files_and_rows(tmp_path, records(exported["image"], tmp_path)) == ["a.png"]
    assert caplog.messages == [
        f"{tmp_path}: passed over are 2 photos that end otherwise than in .jpg, .jpeg, .png, .bmp, .gif, .webp, "
        f"such as {tmp_path}/b.HEIC"
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "file,labels\nb.PNG,red;green\ntrip/c.png,\n"),
        ("alone.csv", "File\nb.PNG\ntrip\\c.png\n"),
        ("tabs.TSV", "split\tfile\ntest\tb.PNG\ntrain\ttrip/c.png\n"),
    ],
)
def test_a_table_stands_for_the_files_of_its_column(exported, album, name, text):
    folder, _ = album
    table = folder / name
    table.write_text(text)
    try:
        assert files_and_rows(folder, records(exported["image"], table)) == ["b.PNG", "trip/c.png"]
    finally:
        table.unlink()


def test_a_file_of_a_table_that_is_missing_takes_no_answer_from_the_others(exported, album, caplog):
    folder, _ = album
    table = folder / "labels.csv"
    table.write_text("file\nb.PNG\ngone.jpg\ntrip/c.png\n")
    got = []
    try:
        with pytest.raises(InputError, match=r"must be readable. Received: .*gone.jpg \(No such file or directory\)$"):
            for record in predict(PredictConfig(saved_model=exported["image"]), [str(table)]):
                got.append(record)
    finally:
        table.unlink()
    assert files_and_rows(folder, got) == ["b.PNG", "trip/c.png"]
    assert [message.partition(": ")[0] for message in caplog.messages] == ["no answer"] and "gone.jpg" in caplog.text


def test_a_folder_of_vectors_and_one_without_anything(models, exported, tmp_path):
    (tmp_path / "rows" / "deep").mkdir(parents=True)
    np.save(tmp_path / "rows" / "deep" / "a.npy", VECTORS[:2])
    np.savetxt(tmp_path / "rows" / "b.csv", VECTORS[2:3], delimiter=",")
    got = records(exported["vector"], tmp_path / "rows")
    assert sorted(record["file"] for record in got) == [str(tmp_path / "rows" / "b.csv")] + 2 * [
        str(tmp_path / "rows" / "deep" / "a.npy")
    ]
    (tmp_path / "empty").mkdir()
    assert refusal(exported["image"], tmp_path / "empty") == (
        f"A folder must hold a file that ends in .jpg, .jpeg, .png, .bmp, .gif, .webp. Received: {tmp_path / 'empty'}"
    )
    (tmp_path / "table.csv").write_text("image,labels\na.jpg,red\n")
    assert "must have a column 'file', separated by" in refusal(exported["image"], tmp_path / "table.csv")


def lines_of(folder, *files, **settings):
    return list(predicted_lines(PredictConfig(saved_model=folder, **settings), [str(file) for file in files]))


def test_probabilities_are_those_of_the_model_to_the_last_digit(tmp_path):
    """Of rare labels they may all be far below a millionth, and their order counts."""
    given = np.float32([[1e-9, 3.0000001e-9, 0.45737273, 0.99999994]])
    model = ServedModel(
        "x", LABEL_NAMES, {"example_f1": 0.5}, 10, lambda features: {"probabilities": tf.constant(given)}
    )
    np.save(tmp_path / "one.npy", VECTORS[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServedModel, "load", lambda folder: model)
        (line,) = lines_of("x", tmp_path / "one.npy")
    assert np.float32(list(json.loads(line)["probabilities"].values())).tolist() == given[0].tolist()


def test_the_most_probable_labels_alone(exported, tmp_path):
    np.save(tmp_path / "many.npy", VECTORS)
    whole = [json.loads(line) for line in lines_of(exported["vector"], tmp_path / "many.npy")]
    cut = [json.loads(line) for line in lines_of(exported["vector"], tmp_path / "many.npy", top_k=2)]
    for record, short in zip(whole, cut, strict=True):
        ranked = sorted(record["probabilities"].items(), key=lambda item: -item[1])[:2]
        assert list(short["probabilities"].items()) == ranked
        assert short["labels"] == record["labels"]  # above the threshold, however many are shown
    many = [json.loads(line) for line in lines_of(exported["vector"], tmp_path / "many.npy", top_k=99)]
    assert {len(record["probabilities"]) for record in many} == {len(LABEL_NAMES)}


@pytest.mark.parametrize("top_k", [None, 2])
def test_a_table_says_the_same_as_json(exported, album, tmp_path, top_k):
    folder, _ = album
    np.save(tmp_path / "two, of many.npy", VECTORS[:2])
    for kind, file in (("image", folder), ("vector", tmp_path / "two, of many.npy")):
        expected = [json.loads(line) for line in lines_of(exported[kind], file, top_k=top_k)]
        text = "\n".join(lines_of(exported[kind], file, top_k=top_k, format="csv"))
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == len(expected) > 1
        for row, record in zip(rows, expected, strict=True):
            assert (row.pop("file"), row.pop("labels")) == (record["file"], ";".join(record["labels"]))
            assert row.pop("row", None) == (str(record["row"]) if kind == "vector" else None)
            if top_k:
                values = list(row.values())
                given = dict(zip(values[::2], map(float, values[1::2]), strict=True))
                assert list(row)[:2] == ["label 1", "probability 1"]
            else:
                given = {name: float(value) for name, value in row.items()}
            assert list(given.items()) == list(record["probabilities"].items())


def test_the_model_of_a_run_is_taken(exported, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "saved_model").symlink_to(exported["vector"])
    (run / "summary.json").write_text(json.dumps({"phase": "finetune"}))
    (run / "flags.txt").write_text("--dataset=npz\n")
    np.save(tmp_path / "one.npy", VECTORS[0])
    (line,) = predicted_lines(PredictConfig(workdir=str(run)), [str(tmp_path / "one.npy")])
    assert [line] == lines_of(exported["vector"], tmp_path / "one.npy")
    (run / "summary.json").write_text(json.dumps({"phase": "pretrain"}))
    for settings, message in (
        ({"workdir": str(run)}, "must be the run directory of a fine-tuning. Received: .*run, a pretrain run$"),
        (
            {"workdir": str(run), "saved_model": "x"},
            "one of --saved_model and --workdir is required. Received: --saved",
        ),
        ({}, "one of --saved_model and --workdir is required. Received: none"),
    ):
        with pytest.raises(InputError, match=message):
            list(predicted_lines(PredictConfig(**settings), [str(tmp_path / "one.npy")]))


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_is_shown_on_a_terminal_alone(exported, tmp_path, monkeypatch, capsys, terminal):
    np.save(tmp_path / "many.npy", VECTORS)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    lines_of(exported["vector"], tmp_path / "many.npy")
    assert ("1/1" in capsys.readouterr().err) == terminal
