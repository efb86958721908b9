"""What `search` finds, held against the model itself and a naive order by cosine; and how its index is kept."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mulsupcon_tf.app import main as app
from mulsupcon_tf.commands import searching
from mulsupcon_tf.commands.finished_run import FinishedRun, open_run
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.commands.searching import open_encoder, open_gallery, search, write_index_of_model
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.config.program_flags import AppConfig, SearchConfig
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.models.classifier import MultiLabelClassifier
from mulsupcon_tf.search import main
from mulsupcon_tf.serving import gallery_search, served_model
from mulsupcon_tf.serving.model_inputs import Refused
from mulsupcon_tf.serving.saved_model import write_saved_model
from mulsupcon_tf.serving.search_index import SearchIndex
from mulsupcon_tf.serving.served_model import ServedModel
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import IMAGE_SHAPE, LABEL_NAMES, tiny_images, tiny_vectors, write_npz

REPOSITORY = pathlib.Path(__file__).parents[2]
VECTORS = tiny_vectors().splits["test"].inputs
PIXELS = tiny_images().splits["test"].inputs

pytestmark = pytest.mark.usefixtures("each_model_is_read_once")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Where an index lies that is not named."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    for kind, model in models.items():
        write_saved_model(model, folder / kind, label_names=LABEL_NAMES, thresholds={"example_f1": 0.5})
    return {kind: str(folder / kind) for kind in models}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The test images, one a file."""
    folder = tmp_path_factory.mktemp("photos")
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture
def gallery(photos, tmp_path):
    """All but the first four of them."""
    folder = tmp_path / "gallery"
    folder.mkdir()
    for path in sorted(photos.iterdir())[4:]:
        shutil.copy2(path, folder)
    return folder


def found_by(*queries, **settings):
    settings = {name: str(value) if name != "neighbours" else value for name, value in settings.items()}
    return list(search(SearchConfig(**settings), [str(query) for query in queries]))


def order_by_cosine(vectors, query, others):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return sorted(others, key=lambda row: -float(unit[query].astype(np.float64) @ unit[row]))


@pytest.mark.parametrize("by", [None, "features", "probabilities"])
def test_the_nearest_photos_are_those_of_the_model(models, exported, photos, gallery, by):
    probabilities, features = (
        value.numpy() for value in models["image"].embed_and_classify(tf.constant(PIXELS, tf.float32))
    )
    vectors = features if by == "features" else probabilities
    settings = {"by": by} if by else {}
    queries = [photos / "00.png", photos / "03.png"]
    got = found_by(*queries, saved_model=exported["image"], gallery=gallery, neighbours=5, **settings)
    assert [record["file"] for record in got] == [str(query) for query in queries]
    for record, query in zip(got, (0, 3), strict=True):
        order = order_by_cosine(vectors, query, range(4, len(PIXELS)))[:5]
        assert [each["file"] for each in record["nearest"]] == [f"{gallery}/{row:02d}.png" for row in order]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        expected = [unit[query] @ unit[row] for row in order]
        np.testing.assert_allclose([each["similarity"] for each in record["nearest"]], expected, atol=1e-5)


def test_rows_of_vectors_are_found_by_file_and_row_and_a_query_is_not_its_own_neighbour(models, exported, tmp_path):
    np.save(tmp_path / "rows.npy", VECTORS)
    (record, *others) = found_by(
        tmp_path / "rows.npy", saved_model=exported["vector"], gallery=tmp_path / "rows.npy", neighbours=99
    )
    assert len(others) == len(VECTORS) - 1 and record["row"] == 0
    probabilities = models["vector"].embed_and_classify(tf.constant(VECTORS))[0].numpy()
    order = order_by_cosine(probabilities, 0, range(1, len(VECTORS)))
    assert [each["row"] for each in record["nearest"]] == order
    assert {each["file"] for each in record["nearest"]} == {str(tmp_path / "rows.npy")}


@pytest.fixture
def encoded(monkeypatch):
    """The names of the files that a model answers for, call by call."""
    calls = []
    answers = served_model.ServedModel.answers

    def noting(self, files, *rest):
        calls.append([os.path.basename(file) for file in files])  # noqa: PTH119
        return answers(self, files, *rest)

    monkeypatch.setattr(served_model.ServedModel, "answers", noting)
    return calls


def test_an_index_is_written_once_and_follows_what_changes(exported, photos, gallery, encoded, caplog):
    tmp_path = gallery.parent
    settings = {"saved_model": exported["image"], "gallery": gallery, "index": tmp_path / "index.npz", "neighbours": 99}
    query = photos / "00.png"
    first = found_by(query, **settings)
    assert [len(files) for files in encoded] == [len(PIXELS) - 4, 1]
    encoded.clear()
    assert found_by(query, **settings) == first
    assert encoded == [["00.png"]]  # the query alone
    encoded.clear()
    (gallery / "10.png").unlink()
    shutil.copy(photos / "01.png", gallery / "new.png")
    shutil.copy(photos / "02.png", gallery / "11.png")
    (changed,) = found_by(query, **settings)
    assert caplog.messages == [
        f"{tmp_path}/index.npz: left out are 1 of {len(PIXELS) - 4} items, which are not in {gallery}"
    ]
    assert encoded == [["11.png", "new.png"], ["00.png"]]
    fresh = found_by(query, **settings | {"index": tmp_path / "other.npz"})
    assert [changed] == fresh
    names = {os.path.basename(each["file"]) for each in changed["nearest"]}  # noqa: PTH119
    assert "new.png" in names and "10.png" not in names and len(names) == len(PIXELS) - 4
    (alone,) = found_by(query, saved_model=exported["image"], index=tmp_path / "index.npz", neighbours=99)
    assert alone == changed


def test_most_of_an_index_is_not_dropped_unasked(exported, photos, gallery, encoded, monkeypatch):
    """It is named with another gallery, or a disk is not mounted: what was encoded in hours would be gone."""
    index, query = gallery.parent / "index.npz", photos / "00.png"
    count = len(PIXELS) - 4
    common = {"saved_model": exported["image"], "gallery": gallery}
    found_by(query, **common, index=index)
    found_by(query, **common)
    before = index.read_bytes()
    encoded.clear()
    rule = "--index must be of this gallery; name another file, or delete this one"
    refused = rf"^{rule} .* Received: {index}, of whose {count} items {count} are not in {query}$"
    with pytest.raises(InputError, match=refused):
        found_by(query, **common | {"gallery": query}, index=index)
    for path in sorted(gallery.iterdir())[: count // 2 + 1]:
        path.unlink()
    with pytest.raises(InputError, match=rf"of whose {count} items {count // 2 + 1} are not in {gallery}$"):
        found_by(query, **common, index=index)
    assert index.read_bytes() == before and not encoded
    found_by(query, **common)  # of an index without a name and with few items nobody need know
    monkeypatch.setattr(searching, "_MANY", 2)
    for path in sorted(gallery.iterdir())[1:]:
        path.unlink()
    with pytest.raises(InputError, match=rf"{rule} .*/home/.* are not in {gallery}$"):
        found_by(query, **common)
    (record,) = search(
        SearchConfig(saved_model=exported["image"], gallery=str(gallery), drop_missing=True), [str(query)]
    )
    assert [each["file"] for each in record["nearest"]] == list(map(str, gallery.iterdir()))
    with pytest.raises(InputError, match=r"^--drop_missing belongs to --gallery\. Received: --drop_missing=True$"):
        SearchConfig(saved_model="model", drop_missing=True)


@pytest.mark.parametrize("emptied", [True, False])
def test_many_items_of_a_disk_that_is_not_mounted_are_not_dropped_unasked(
    exported, photos, gallery, monkeypatch, *, caplog, emptied
):
    monkeypatch.setattr(searching, "_MANY", 3)
    disk, query = gallery / "disk", photos / "00.png"
    disk.mkdir()
    for path in sorted(gallery.glob("*.png"))[:4]:
        path.rename(disk / path.name)
    settings = {"saved_model": exported["image"], "gallery": str(gallery), "index": str(gallery.parent / "index.npz")}
    found_by(query, **settings)
    before = (gallery.parent / "index.npz").read_bytes()
    names = sorted(path.name for path in disk.iterdir())
    for name in names[1:]:  # of the deleted photos of a folder that holds others it is said alone
        (disk / name).unlink()
    assert len(found_by(query, **settings)) == 1 and "left out are 3 of" in caplog.text
    (gallery.parent / "index.npz").write_bytes(before)
    shutil.rmtree(disk)
    if emptied:
        disk.mkdir()
    received = rf"of whose {len(PIXELS) - 4} items 4 are not in {gallery}, 4 in folders that are gone or empty, such as {disk}/04.png$"
    with pytest.raises(
        InputError, match=rf"give --drop_missing if what it is of is gone for good\. Received: .*{received}"
    ):
        found_by(query, **settings)
    assert (gallery.parent / "index.npz").read_bytes() == before
    list(search(SearchConfig(**settings, drop_missing=True), [str(query)]))
    assert (gallery.parent / "index.npz").read_bytes() != before


def test_an_index_is_not_written_for_a_file_that_cannot_be_read(exported, photos, gallery):
    (gallery / "bad.png").write_bytes(b"no image")
    settings = {"saved_model": exported["image"], "gallery": gallery, "index": gallery.parent / "index.npz"}
    first = found_by(photos / "00.png", **settings)
    os.utime(settings["index"], ns=(1, 1))
    assert found_by(photos / "00.png", **settings) == first
    assert settings["index"].stat().st_mtime_ns == 1
    (gallery / "10.png").write_bytes(b"no image")  # one that is lost is written
    assert found_by(photos / "00.png", **settings) != first
    assert settings["index"].stat().st_mtime_ns != 1


def test_a_growing_index_is_written_at_each_tenth_that_it_has_grown_and_at_its_end(
    exported, photos, gallery, monkeypatch
):
    sizes = []

    def write(self, path):
        sizes.append(len(self.files))
        return written(self, path)

    written = SearchIndex.write
    monkeypatch.setattr(SearchIndex, "write", write)
    monkeypatch.setattr(searching, "_BLOCK", 1)
    monkeypatch.setattr(searching, "_GROWTH", 1.5)
    found_by(photos / "00.png", saved_model=exported["image"], gallery=gallery)
    assert len(PIXELS) == 24 and sizes == [1, 2, 4, 7, 11, 17, 20]


def test_an_index_or_a_page_that_cannot_be_written_is_refused_before_anything_is_encoded(
    exported, photos, gallery, tmp_path, encoded
):
    (tmp_path / "file").touch()
    for name in ("index", "sheet"):
        path = str(tmp_path / "file" / f"{name}.html")
        config = SearchConfig(saved_model=exported["image"], gallery=str(gallery), **{name: path})
        with pytest.raises(NotADirectoryError) as raised:
            main(config, [str(photos / "00.png")])
        assert raised.value.filename == path and not encoded


def test_an_index_without_a_name_is_used_again(exported, photos, gallery, tmp_path, encoded):
    settings = {"saved_model": exported["image"], "gallery": gallery}
    assert found_by(photos / "00.png", **settings) == found_by(photos / "00.png", **settings)
    assert [len(files) for files in encoded] == [len(PIXELS) - 4, 1, 1]
    (path,) = (tmp_path / "home").rglob("*.npz")
    assert path.parent.name == "search"


def write_other_model(folder):
    other = MultiLabelClassifier(build_backbone("resnet8", IMAGE_SHAPE), len(LABEL_NAMES))
    write_saved_model(other, folder, label_names=LABEL_NAMES, thresholds={"example_f1": 0.5})


def test_an_index_of_another_model_or_of_other_vectors_is_refused(models, exported, photos, gallery, tmp_path):
    settings = {"saved_model": exported["image"], "gallery": gallery, "index": tmp_path / "index.npz"}
    found_by(photos / "00.png", **settings)
    with pytest.raises(InputError, match=r"--by=features; name another file. Received: .*index.npz, by probabilities$"):
        found_by(photos / "00.png", **settings, by="features")
    write_other_model(tmp_path / "other")
    with pytest.raises(InputError, match=r"must be of this model .* Received: .*index.npz, of another model$"):
        found_by(photos / "00.png", **settings | {"saved_model": tmp_path / "other"})


def page_program(page, heading):
    """The program of a section of a page."""
    section = (REPOSITORY / "docs" / page).read_text().partition(f"\n## {heading}\n")[2]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


@pytest.mark.slow
def test_an_index_beside_the_model_answers_without_a_gallery_and_without_this_package(
    exported, photos, gallery, tmp_path
):
    folder, query = shutil.copytree(exported["image"], tmp_path / "model"), photos / "00.png"
    (named,) = found_by(query, saved_model=folder, gallery=gallery, by="features")
    write_index_of_model(folder, str(gallery), "features")
    (record,) = found_by(query, saved_model=folder)
    assert record["nearest"] == named["nearest"]
    (other,) = found_by(query, saved_model=folder, gallery=photos / "01.png")
    assert [each["file"] for each in other["nearest"]] == [str(photos / "01.png")]
    rule = r"the gallery beside a model must be of this model and of --by=probabilities; name another by --gallery=DIR, or leave --by out\."
    with pytest.raises(InputError, match=rf"{rule} Received: .*gallery\.npz, by features$"):
        found_by(query, saved_model=folder, by="probabilities")
    write_other_model(tmp_path / "other")
    shutil.copy2(folder / "gallery.npz", tmp_path / "other")
    with pytest.raises(
        InputError, match=r"name another by --gallery=DIR\. Received: .*gallery\.npz, of another model$"
    ):
        found_by(query, saved_model=tmp_path / "other")
    _, find, files = open_gallery(AppConfig(saved_model=str(folder)))
    assert len(files) == len(PIXELS) - 4 and find(str(query)) == record["nearest"]

    program = page_program("serving.md", "Search without this package")
    program += "assert not any(name.startswith('mulsupcon_tf') for name in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", program, folder, query], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [file for _, file in printed] == [each["file"] for each in record["nearest"]]
    expected = [each["similarity"] for each in record["nearest"]]
    np.testing.assert_allclose([float(number) for number, _ in printed], expected, atol=1e-5)


def test_files_that_cannot_be_read_take_no_answer_from_the_others(exported, photos, gallery, tmp_path, caplog):
    (gallery / "bad.png").write_bytes(b"no image")
    bad = tmp_path / "bad query.png"
    bad.write_bytes(b"")
    config = SearchConfig(saved_model=exported["image"], gallery=str(gallery), neighbours=1)
    got = []
    with pytest.raises(InputError, match=r"bad query.png \(it is empty\)$"):
        for record in search(config, [str(photos / "00.png"), str(bad), str(photos / "01.png")]):
            got.append(record)
    assert [record["file"] for record in got] == [str(photos / name) for name in ("00.png", "01.png")]
    assert "bad.png (an image must be" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--gallery is required"),
        ({"index": "/nowhere.npz"}, "or an --index that is there"),
        ({"gallery": "/nowhere"}, "Each file must exist. Received: /nowhere"),
        ({"gallery": "{photos}", "by": "embedding"}, "must be one of probabilities, features for a classifier"),
        ({"gallery": "{empty}"}, "A folder must hold a file that ends in .jpg"),
        ({"gallery": "{bad}"}, "a gallery must hold a file that can be read. Received: none in"),
        ({"gallery": "{photos}", "workdir": "x"}, "one of --saved_model and --workdir is required"),
    ],
)
def test_what_is_wrong_gets_one_line(exported, photos, tmp_path, settings, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    places = {"photos": photos, "empty": tmp_path / "empty", "bad": tmp_path / "bad"}
    given = {name: value.format(**places) for name, value in settings.items()}
    with pytest.raises(InputError) as raised:
        found_by(photos / "00.png", saved_model=exported["image"], **given)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_classifier_of_one_label_is_searched_by_its_features(monkeypatch):
    """Of single numbers above 0 all cosines are 1."""
    monkeypatch.setattr(gallery_search, "_hash_of_files", lambda folder: "hash")
    one, two = (ServedModel("models/x", names, {}, None, None) for names in (("sea",), ("sea", "beach")))
    assert gallery_search.encoder_of_served_model(one, None, 1).by == "features"
    assert gallery_search.encoder_of_served_model(two, None, 1).by == "probabilities"
    with pytest.raises(
        InputError, match=r"one of features for a classifier of one label\. Received: --by=probabilities"
    ):
        gallery_search.encoder_of_served_model(one, "probabilities", 1)


def test_no_query_gets_one_line(exported, photos):
    with pytest.raises(InputError, match="Received: no file"):
        found_by(saved_model=exported["image"], gallery=photos)


def test_the_program_prints_lines_and_writes_a_page(exported, photos, gallery, tmp_path, capsys):
    sheet = tmp_path / "pages" / "found.html"
    config = SearchConfig(saved_model=exported["image"], gallery=str(gallery), neighbours=2, sheet=str(sheet))
    main(config, [str(photos / "00.png"), str(photos / "01.png")])
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == found_by(
        photos / "00.png", photos / "01.png", saved_model=exported["image"], gallery=gallery, neighbours=2
    )
    page = sheet.read_text(encoding="utf-8")
    assert page.count("<img") == 6
    assert all(os.path.basename(each["file"]) in page for record in printed for each in record["nearest"])  # noqa: PTH119


@pytest.mark.parametrize(("limit", "found"), [("", ["low.png", "high.png"]), ("--max_image_pixels=400\n", ["low.png"])])
def test_a_pretraining_searches_files_of_as_many_pixels_as_it_was_trained_on(tmp_path, monkeypatch, limit, found):
    files = [str(tmp_path / name) for name in ("low.png", "high.png")]
    for file, height in zip(files, (20, 21), strict=True):
        Image.new("RGB", (20, height)).save(file)
    run, given = tmp_path / "run", []
    run.mkdir()
    (run / "flags.txt").write_text(f"--dataset=npz\n{limit}")
    (run / "summary.json").write_text('{"phase": "pretrain"}')
    (run / "encoder.weights.h5").write_bytes(b"weights")

    def represent(samples):
        given.extend(samples.inputs.paths)
        return {"embedding": np.ones((len(samples), 2), np.float32)}

    opened = FinishedRun("pretrain", None, tiny_images(), "", lambda split: {}, represent)
    monkeypatch.setattr(searching, "open_run", lambda *_, **__: opened)
    refused = Refused()
    keys, _ = open_encoder(SearchConfig(workdir=str(run))).encode(files, refused)
    assert [each["file"] for each in keys] == given == [str(tmp_path / name) for name in found]
    if limit:
        with pytest.raises(InputError, match=r"Received: .*high.png .*at most 400 pixels"):
            refused.raise_if_any()


def test_a_pretraining_searches_by_its_embedding(tmp_path):
    data = write_npz(tiny_vectors(), tmp_path / "data")
    run = str(tmp_path / "run")
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), workdir=run, epochs=1, batch_size=32, max_steps=2))
    np.save(tmp_path / "rows.npy", VECTORS)
    outputs = open_run(run, None).outputs("test")
    for by in (None, "features"):
        settings = {"by": by} if by else {}
        record, *_ = found_by(
            tmp_path / "rows.npy", workdir=run, gallery=tmp_path / "rows.npy", neighbours=99, **settings
        )
        order = order_by_cosine(outputs[by or "embedding"], 0, range(1, len(VECTORS)))
        assert [each["row"] for each in record["nearest"]] == order
    with pytest.raises(InputError, match="must be one of embedding, features for a pretraining"):
        found_by(tmp_path / "rows.npy", workdir=run, gallery=tmp_path / "rows.npy", by="probabilities")


@pytest.mark.slow
def test_a_pretraining_on_grey_images_in_memory_searches_files_as_it_saw_the_images(tmp_path):
    """Which are no squares either."""
    grey = tiny_images(shape=(20, 16, 1))
    data, photos = write_npz(grey, tmp_path / "data"), tmp_path / "photos"
    settings = {"epochs": 1, "batch_size": 32, "max_steps": 1, "method": "self", "backbone": "resnet8"}
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), workdir=str(tmp_path / "run"), **settings))
    photos.mkdir()
    for number, pixels in enumerate(grey.splits["test"].inputs):
        Image.fromarray(pixels[..., 0]).save(photos / f"{number:02d}.png")
    vectors = open_run(str(tmp_path / "run"), None).outputs("test")["embedding"]
    (record,) = found_by(photos / "00.png", workdir=tmp_path / "run", gallery=photos, neighbours=99)
    expected = {f"{photos}/{row:02d}.png": float(vectors[0] @ vectors[row]) for row in range(1, len(vectors))}
    assert {each["file"]: each["similarity"] for each in record["nearest"]} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("name", "value"), [("data_dir", "d"), ("allow_changed_data", True)])
def test_the_folder_of_the_data_is_refused_where_a_classifier_needs_none(tmp_path, name, value):
    (tmp_path / "summary.json").write_text('{"phase": "finetune"}')
    with pytest.raises(
        InputError, match=rf"^--{name} belongs to a --workdir of a pretraining.* Received: --{name}={value} "
    ):
        open_encoder(SearchConfig(workdir=str(tmp_path), **{name: value}))
    with pytest.raises(InputError, match=rf"^--{name} belongs to --workdir\. Received: --{name}={value}$"):
        SearchConfig(saved_model=str(tmp_path), **{name: value})


def test_a_pretraining_whose_data_have_changed_searches_when_that_is_allowed(tmp_path):
    data = write_npz(tiny_vectors(), tmp_path / "data")
    run, rows = str(tmp_path / "run"), str(tmp_path / "rows.npy")
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), workdir=run, epochs=1, batch_size=32, max_steps=2))
    np.save(rows, VECTORS)
    before = found_by(rows, workdir=run, gallery=rows)
    write_npz(tiny_vectors(seed=1), data)
    with pytest.raises(InputError, match="or --allow_changed_data be given"):
        found_by(rows, workdir=run, gallery=rows)
    assert list(search(SearchConfig(workdir=run, gallery=rows, allow_changed_data=True), [rows])) == before


def test_the_program_of_the_tutorial_reads_what_embed_writes(tmp_path, monkeypatch, capsys):
    text = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
    (program,) = (code for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "train.npz" in code)
    names = [f"{number}.jpg" for number in range(len(VECTORS))]
    labels = tiny_vectors().splits["test"].labels
    np.savez(tmp_path / "train.npz", features=VECTORS, files=names, labels=labels, label_names=np.array(LABEL_NAMES))
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "tutorial.md", "exec"), {})
    order = [0, *order_by_cosine(VECTORS, 0, range(1, len(VECTORS)))][:5]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [f"{row}.jpg" for row in order]
    assert [re.findall(r"'(\w+)'", line) for line in lines] == [
        [name for name, here in zip(LABEL_NAMES, labels[row], strict=True) if here] for row in order
    ]


def test_the_page_of_app_gets_a_model_of_photos_and_its_gallery(exported, photos, gallery, tmp_path):
    config = AppConfig(saved_model=exported["image"], gallery=str(gallery), neighbours=3)
    model, find, files = open_gallery(config)
    assert model.label_names == LABEL_NAMES and files == [str(path) for path in sorted(gallery.iterdir())]
    (record,) = found_by(photos / "00.png", saved_model=exported["image"], gallery=gallery, neighbours=3)
    assert find(str(photos / "00.png")) == record["nearest"]
    assert open_gallery(AppConfig(saved_model=exported["image"]))[1:] == (None, [])
    for settings, message in (
        ({"saved_model": exported["vector"]}, "app takes a model of photos. Received: .*, a model of vectors$"),
        ({"saved_model": exported["image"], "index": "/nowhere.npz"}, "--index alone must be a file that is there"),
        ({"saved_model": exported["image"], "gallery": str(gallery), "by": "embedding"}, "probabilities, features"),
        ({"saved_model": exported["image"], "by": "features"}, "--by belongs to --gallery. Received: --by=features"),
        ({}, "one of --saved_model and --workdir is required"),
    ):
        with pytest.raises(InputError, match=message):
            open_gallery(AppConfig(**settings))


def test_without_gradio_the_page_gets_one_line(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"^The page needs gradio: pip install '\.\[app\]' .*none installed$"):
        app(AppConfig(saved_model=exported["image"]))


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_a_pretraining_on_photos_searches_other_photos(photos, gallery, tmp_path, frozen):
    rows = "".join(
        f"{path.name},{'sea' if number % 2 else 'sea;sky'}\n" for number, path in enumerate(sorted(photos.iterdir()))
    )
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    (data / "labels.csv").write_text(f"file,labels\n{rows}")
    settings = {"dataset": "csv", "data_dir": str(data), "backbone": "resnet8", "image_size": 32, "batch_size": 4}
    if frozen:
        build_backbone("resnet8", (32, 32, 3)).save_weights(tmp_path / "some.weights.h5")
        settings |= {"freeze_backbone": True, "backbone_weights": str(tmp_path / "some.weights.h5")}
    run = str(tmp_path / "run")
    pretrain(PretrainConfig(**settings, workdir=run, queue_size=8, epochs=1, max_steps=1))
    (gallery / "bad.png").write_bytes(b"no image")
    opened = open_run(run, None)
    names = [os.path.basename(path) for path in opened.dataset.splits["test"].inputs.paths]  # noqa: PTH119
    embedding = opened.outputs("test")["embedding"]
    (record, *others) = found_by(*(data / name for name in names), workdir=run, gallery=data, neighbours=99)
    near = [each["file"] for each in record["nearest"] if os.path.basename(each["file"]) in names]  # noqa: PTH119
    order = order_by_cosine(embedding, 0, range(1, len(names)))
    assert near == [str(data / names[row]) for row in order] and len(others) == len(names) - 1
    assert found_by(data / names[0], workdir=run, gallery=gallery, neighbours=1)
