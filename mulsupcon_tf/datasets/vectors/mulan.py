"""Mulan's benchmark sets by name: from the user's folder, else downloaded once and kept in a cache.

Only files whose SHA-256 is known here are downloaded; for other sets an error says what to fetch from where.
"""

import hashlib
import http.client
import pathlib
import urllib.error
import urllib.request

from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.checking import existing_folder
from mulsupcon_tf.datasets.vectors.arff import ArffFiles, find_files, read_dataset
from mulsupcon_tf.utils.atomic_file import replacing
from mulsupcon_tf.utils.cache_folder import cache_folder
from mulsupcon_tf.utils.errors import InputError

_COMMIT = "43f6389095ad71984264db4387a8074b22bc7d4a"
_FOLDER = "data/multi-label"
_RAW_URL = f"https://raw.githubusercontent.com/tsoumakas/mulan/{_COMMIT}/{_FOLDER}"
_PAGE = f"https://github.com/tsoumakas/mulan/tree/{_COMMIT}/{_FOLDER}"
_TIMEOUT = 5  # seconds, to connect and for each read
_CHECKSUMS = {
    "scene": {
        "scene-train.arff": "b53ba93bdf412de922e3960389bcee24744fa3e872ce610511fc1d750888b64d",
        "scene-test.arff": "ea38d20296b3ff7e220f477a3b802a9bcb2d768881fe6ee163efbc97ea527a42",
        "scene.xml": "55d8b247b949ad5c52e5a73d8c6775ec6e5469ce9682465b45b333b68ee4bcc5",
    },
    "yeast": {
        "yeast-train.arff": "e759dc991ff54694a4ff9c4314f3be0d6fd2b1994a4b563f57e416394c6aebbd",
        "yeast-test.arff": "4aaac102bff9669a765bf0b378602e5cc8c3b181048282e2f003117b496d552a",
        "yeast.xml": "c3056cc26444b5158b1588d1b73bec9c45429e10f0957ad085903423cb81f247",
    },
    "corel5k": {
        "Corel5k-train-sparse.arff": "19eb253c447144bea74ffa86b4731a56022addae2ba7d0aab72ad07fdc02e9b3",
        "Corel5k-test-sparse.arff": "e8f8e9cd052c43ba7bdfdf99d242f461fc8c2a03163466d921e576887b51d8a7",
        "Corel5k.xml": "54ef6a6ccb7ca9b77524052b34b306d5d501661a5609b9d1cc7085b2b597679d",
    },
    "delicious": {
        "delicious-train.arff": "030186cdb542ebdd32052fcdbb1ebe30115b3a22518c1b4b198c45eb827aebe1",
        "delicious-test.arff": "2dfb01723a819914b0ca83361177ed413ce3f2169851d9f228d4692915d63944",
        "delicious.xml": "4e0c0f93c7d86a39b9fca4aaefaa00e9428f2c80277732dfbf03ca48e2c14da2",
    },
    "enron": {
        "enron-train.arff": "2988cefc1cdf7a8004a20ef84615cc8fa1b5d7434c16687283b41454e2d9d194",
        "enron-test.arff": "2f3aad54a8f54caaab4ab01246fe9dd385ba944a2633028f52747b57eac5474e",
        "enron.xml": "ed40c92d7f613eed51714912cab10dddc4ce456262137d8fef230d44c7f4457b",
    },
}


def load_mulan(
    name: str,
    data_dir: str | None,
    seed: int,
    *,
    base_url: str = _RAW_URL,
    cache_dir: pathlib.Path | None = None,
) -> MultiLabelDataset:
    """Loads one of Mulan's sets, with its published train and test split where it has one.

    Of the published train 20% become validation, drawn by number; of files that are not divided the splits are drawn as
    those of a user's own data.

    Args:
        name: "scene", "yeast", ...; see `registry.dataset_names`.
        data_dir: folder that holds the files, or a folder of that name which does (case does not matter). None, or a
            folder without them: the set is downloaded, where its checksums are known.
        seed: of the samples that become validation, and test where the files are not divided.
        base_url: what to download from, without the folder of the set.
        cache_dir: where downloads are kept; by default `mulsupcon_tf/mulan` below `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        InputError: `data_dir` is no folder; the set is not there and cannot be downloaded, or what was downloaded has
            another checksum; or see `arff.read_dataset`.
    """
    files = None
    if data_dir is not None:
        folder = existing_folder(data_dir, name)
        own = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() == name]
        files = next(filter(None, (find_files(place, name) for place in [folder, *own])), None)
    if files is None:
        files = _download(name, data_dir, base_url, cache_dir or cache_folder("mulan"))
    return read_dataset(name, files, seed, published=files.test is not None)


def _download(name: str, data_dir: str | None, base_url: str, cache_dir: pathlib.Path) -> ArffFiles:
    if name not in _CHECKSUMS:
        raise InputError(
            f"--data_dir must hold {name}-train.arff, {name}-test.arff (or one {name}.arff) and {name}.xml; get them "
            f"from {_PAGE}/{name} (not downloaded for you: no checksum is known). Received: --data_dir={data_dir}"
        )
    paths = []
    for file_name, checksum in _CHECKSUMS[name].items():
        path = cache_dir / name / file_name
        if not path.is_file() or _sha256(path.read_bytes()) != checksum:
            content = _fetch(name, file_name, data_dir, base_url)
            if _sha256(content) != checksum:
                raise InputError(
                    f"{file_name} must have SHA-256 {checksum}. "
                    f"Received: {_sha256(content)} ({len(content)} bytes) from {base_url}"
                )
            _store(content, path)
        paths.append(path)
    train, test, labels = paths
    return ArffFiles(train, test, labels)


def _fetch(name: str, file_name: str, data_dir: str | None, base_url: str) -> bytes:
    # Mulan may spell a folder like our name or like the files in it: corel5k, Corel5k.
    spelling = next(known.removesuffix(".xml") for known in _CHECKSUMS[name] if known.endswith(".xml"))
    reason: Exception | str = ""
    for folder in dict.fromkeys((name, spelling)):
        try:
            with urllib.request.urlopen(f"{base_url}/{folder}/{file_name}", timeout=_TIMEOUT) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            reason = error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            break  # no server to ask for the other spelling
    raise InputError(
        f"--data_dir must hold {', '.join(_CHECKSUMS[name])} where they cannot be downloaded. "
        f"Received: --data_dir={data_dir}, {base_url}/{name}/{file_name} ({reason})"
    )


def _store(content: bytes, path: pathlib.Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"the cache of downloads must be writable (XDG_CACHE_HOME moves it). "
            f"Received: {path.parent} ({error.strerror})"
        ) from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
