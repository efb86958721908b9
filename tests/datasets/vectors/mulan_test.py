import functools
import http.server
import shutil
import socket
import threading
import time

import numpy as np
import pytest

from mulsupcon_tf.datasets.vectors import mulan
from mulsupcon_tf.datasets.vectors.mulan import load_mulan
from mulsupcon_tf.utils.errors import InputError

TEN_FEATURES = "@relation r\n" + "".join(f"@attribute f{i} numeric\n" for i in range(2)) + "@attribute l {0,1}\n@data\n"


def write_small(folder, stem):
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}-train.arff").write_text(TEN_FEATURES + "1,2,1\n3,4,0\n5,6,1\n")
    (folder / f"{stem}-test.arff").write_text(TEN_FEATURES + "7,8,1\n")
    (folder / f"{stem}.xml").write_text('<labels><label name="l"/></labels>')


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def unreachable():
    """A URL where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def serve():
    """Serves folders by HTTP on the loopback interface; gives URL and the list of paths asked for."""
    servers = []

    def start(folder):
        asked = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format, *args):
                asked.append(self.path)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("folder", "stem"), [("", "emotions"), ("Emotions", "emotions"), ("emotions", "EMOTIONS")])
def test_files_of_the_user_are_found_in_the_folder_or_one_of_that_name(tmp_path, unreachable, folder, stem):
    write_small(tmp_path / folder, stem)
    write_small(tmp_path, "birds")
    dataset = load_mulan("emotions", str(tmp_path), 0, base_url=unreachable)
    assert dataset.name == "emotions"
    np.testing.assert_array_equal(dataset.splits["test"].inputs, [[7, 8]])


@pytest.mark.parametrize("data_dir", [None, "empty"])
def test_a_set_without_known_checksums_is_not_downloaded(tmp_path, serve, data_dir):
    (tmp_path / "empty").mkdir()
    write_small(tmp_path / "birds", "birds")
    url, asked = serve(tmp_path)
    with pytest.raises(InputError) as caught:
        load_mulan("birds", data_dir and str(tmp_path / data_dir), 0, base_url=url, cache_dir=tmp_path / "cache")
    message = str(caught.value)
    for part in ("birds-train.arff", "birds-test.arff", "birds.xml", "--data_dir", "tsoumakas/mulan/tree/43f63890"):
        assert part in message
    assert "\n" not in message
    assert not asked


@pytest.mark.parametrize(("name", "folder"), [("yeast", "yeast"), ("corel5k", "corel5k"), ("corel5k", "Corel5k")])
def test_download_once_then_from_the_cache(tmp_path, shared_data, serve, name, folder):
    shutil.copytree(shared_data / "mulan" / name, tmp_path / "served" / folder)
    url, asked = serve(tmp_path / "served")
    cache = tmp_path / "cache"

    first = load_mulan(name, None, 0, base_url=url, cache_dir=cache)
    requests = len(asked)
    again = load_mulan(name, None, 0, base_url=url, cache_dir=cache)

    direct = load_mulan(name, str(shared_data / "mulan"), 0)
    for split in direct.splits:
        np.testing.assert_array_equal(first.splits[split].inputs, direct.splits[split].inputs)
        np.testing.assert_array_equal(again.splits[split].labels, direct.splits[split].labels)
    assert len(asked) == requests
    served = {path.name for path in (tmp_path / "served" / folder).iterdir()}
    assert {path.name for path in (cache / name).iterdir()} == served


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("scene", (1211, 1196, 294, 6)),
        ("yeast", (1500, 917, 103, 14)),
        ("corel5k", (4500, 500, 499, 374)),
        pytest.param("delicious", (12920, 3185, 500, 983), marks=pytest.mark.slow),
        ("enron", (1123, 579, 1001, 53)),
    ],
)
def test_real_sets_have_the_known_checksums_and_published_sizes_and_load_fast(
    tmp_path, shared_data, unreachable, name, sizes
):
    """A file in the cache is used only where its checksum is right; so these load without a network."""
    shutil.copytree(shared_data / "mulan" / name, tmp_path / name)
    start = time.process_time()
    dataset = load_mulan(name, None, 0, base_url=unreachable, cache_dir=tmp_path)
    assert time.process_time() - start < 10
    lengths = {split: len(rows) for split, rows in dataset.splits.items()}
    train, test, inputs, labels = sizes
    assert lengths == {"train": train - round(0.2 * train), "validation": round(0.2 * train), "test": test}
    assert (dataset.input_shape, dataset.num_labels) == ((inputs,), labels)


def test_a_changed_file_is_refused_and_a_broken_cache_is_mended(tmp_path, shared_data, serve):
    served = tmp_path / "served"
    shutil.copytree(shared_data / "mulan" / "yeast", served / "yeast")
    original = (served / "yeast" / "yeast-test.arff").read_bytes()
    (served / "yeast" / "yeast-test.arff").unlink()
    (served / "yeast" / "yeast-test.arff").write_bytes(original.replace(b"0.004168", b"0.004169", 1))
    url, _ = serve(served)
    cache = tmp_path / "cache"

    with pytest.raises(
        InputError, match=r"yeast-test.arff must have SHA-256 4aaac102.* Received: \w{64} \(918515 bytes"
    ):
        load_mulan("yeast", None, 0, base_url=url, cache_dir=cache)
    assert not (cache / "yeast" / "yeast-test.arff").exists()

    (served / "yeast" / "yeast-test.arff").write_bytes(original)
    (cache / "yeast" / "yeast-test.arff").write_bytes(original[:1000])
    assert len(load_mulan("yeast", None, 0, base_url=url, cache_dir=cache).splits["test"]) == 917


def test_no_network_is_one_line_at_once(tmp_path, unreachable):
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_mulan("scene", None, 0, base_url=unreachable, cache_dir=tmp_path)
    assert time.monotonic() - start < 5
    message = str(caught.value)
    for part in ("scene-train.arff, scene-test.arff, scene.xml", f"{unreachable}/scene/scene-train.arff", "refused"):
        assert part in message
    assert "\n" not in message


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(mulan, "_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="timed out"):
        load_mulan("scene", None, 0, base_url=f"http://127.0.0.1:{silent.getsockname()[1]}", cache_dir=tmp_path)


def test_a_server_without_the_file(tmp_path, serve):
    url, _ = serve(tmp_path)
    with pytest.raises(InputError, match=r"scene/scene-train.arff .*404"):
        load_mulan("scene", None, 0, base_url=url, cache_dir=tmp_path / "cache")


def test_the_cache_follows_xdg(tmp_path, shared_data, unreachable, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.copytree(shared_data / "mulan" / "scene", tmp_path / "mulsupcon_tf" / "mulan" / "scene")
    assert load_mulan("scene", None, 0, base_url=unreachable).num_labels == 6


def test_a_cache_that_cannot_be_written(tmp_path, shared_data, serve):
    url, _ = serve(shared_data / "mulan")
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(InputError, match="cache of downloads must be writable"):
        load_mulan("scene", None, 0, base_url=url, cache_dir=tmp_path / "cache")
