import dataclasses
import re
import shutil
import types

import numpy as np
import pytest

from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.training.agreement import Account
from tests.datasets.photo_folders import write_photo
from tests.helpers.hand_made_runs import write_run
from tests.helpers.tiny_datasets import tiny_vectors, write_npz
from tests.helpers.two_workers import outcomes_of

# What one worker holds against another


def account(config=None, data=None, **settings):
    config = config or FinetuneConfig(workdir="w")
    return Account.of(types.SimpleNamespace(**vars(config) | settings), data or tiny_vectors())


def other_than(value):
    return not value if isinstance(value, bool) else f"{value}7"


@pytest.mark.parametrize("config", [PretrainConfig(workdir="w"), FinetuneConfig(workdir="w")])
def test_a_difference_in_any_setting_is_named_but_for_paths(config):
    paths, weights = {"workdir", "data_dir", "feature_cache"}, {"pretrained", "backbone_weights", "init_from"}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        found = account(config, **{field.name: other_than(value)}).differs_in(account(config))
        if field.name in paths:
            assert not found
        elif field.name in weights:
            assert found == [f"other weights in --{field.name}"]
        elif isinstance(value, bool):
            assert found == [f"--{field.name}={str(not value).lower()}, not {str(value).lower()}"]
        else:
            assert found == [f"--{field.name}={value}7, not {'none' if value is None else value}"]


def test_a_setting_that_only_the_chief_has_is_named():
    assert account().differs_in(account(image_size=32)) == ["no --image_size, not 32"]


def changed(dataset, **splits):
    return dataclasses.replace(dataset, splits={**dataset.splits, **splits})


def with_one_label_changed(dataset, name="train"):
    labels = dataset.splits[name].labels.copy()
    labels[3, 1] ^= 1
    return changed(dataset, **{name: Split(dataset.splits[name].inputs, labels)})


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_one_label_or_one_feature_of_any_split_is_seen(name):
    dataset = tiny_vectors()
    assert account(data=with_one_label_changed(dataset, name)).differs_in(account()) == ["other labels"]
    inputs = dataset.splits[name].inputs.copy()
    inputs[-1, -1] = np.nextafter(inputs[-1, -1], np.float32(np.inf))
    other = changed(dataset, **{name: Split(inputs, dataset.splits[name].labels)})
    assert account(data=other).differs_in(account()) == ["other vectors, or another order of them"]


def test_names_of_labels_numbers_of_samples_and_sizes_of_files_are_seen(tmp_path):
    dataset = tiny_vectors()
    renamed = dataclasses.replace(dataset, label_names=("red", "green", "navy", "bright"))
    assert account(data=renamed).differs_in(account()) == ["'navy' for label 3, not 'blue'"]
    fewer = tiny_vectors(sizes={"train": 60, "validation": 24, "test": 24})
    assert account(data=fewer).differs_in(account()) == ["60/24/24 samples in train/validation/test, not 64/24/24"]
    datasets = []
    for folder, sizes in (("a", (5, 6, 7)), ("b", (5, 7, 6))):
        (tmp_path / folder).mkdir()
        for name, size in zip("xyz", sizes, strict=True):
            (tmp_path / folder / name).write_bytes(b"." * size)
        files = [ImageFiles.below(tmp_path / folder, [name]) for name in "xyz"]
        splits = [Split(each, np.ones((1, 1), np.uint8)) for each in files]
        names = ("train", "validation", "test")
        datasets.append(MultiLabelDataset("csv", "image", ("one",), dict(zip(names, splits, strict=True))))
    one, other = (account(data=each) for each in datasets)
    assert one.differs_in(account(data=datasets[0])) == []
    assert other.differs_in(one) == ["files of other sizes"]


def test_weights_are_told_apart_by_what_is_in_them_not_by_their_path(tmp_path):
    for folder, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / folder).mkdir()
        for name in ("encoder.weights.h5", "own.weights.h5"):
            (tmp_path / folder / name).write_bytes(content)

    def of(**start):
        return account(FinetuneConfig(workdir="w", **{name: str(tmp_path / path) for name, path in start.items()}))

    for name, path in (("pretrained", "{}"), ("backbone_weights", "{}/own.weights.h5")):
        one, same, other = (of(**{name: path.format(folder)}) for folder in "abc")
        assert same.differs_in(one) == []
        assert other.differs_in(one) == account().differs_in(one) == [f"other weights in --{name}"]
    imagenet = account(backbone_weights="imagenet")
    assert imagenet.differs_in(account(backbone_weights="imagenet")) == []
    assert imagenet.differs_in(account()) == ["other weights in --backbone_weights"]


def test_another_version_is_named_but_for_pythons():
    other = dataclasses.replace(account(), versions=account().versions | {"keras": "2.0"})
    assert other.differs_in(account()) == [f"keras 2.0, not {account().versions['keras']}"]
    assert "python" not in account().versions


# Two real processes


RULE = "error: Workers that train together must have the settings and data of worker 0. Received: worker 1 with "
DIFFERENCES = {
    "learning_rate": "--learning_rate=5.0, not 0.0004",
    "method": "--method=mulsupcon, not cld",
    "batch_size": "--batch_size=15, not 16",
    "logical_devices": "--logical_devices=2, not none",
    "a label": "other labels",
    "a sample": "60/24/24 samples in train/validation/test, not 64/24/24; --queue_size=60, not 64",
    "two files": "files of other sizes",
    "weights": "other weights in --pretrained",
}
# Each is told apart without processes above; that two workers say so one of them shows.
BY_DEFAULT = ("learning_rate",)


def flags(**settings):
    return [f"--{name}={value}" for name, value in settings.items()]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The flags of both workers by what differs, for the binary that they belong to, and the folder of all workdirs."""
    folder = tmp_path_factory.mktemp("agreement")
    vectors = tiny_vectors()
    data, label, sample = (
        write_npz(dataset, folder / name)
        for name, dataset in (
            ("data", vectors),
            ("label", with_one_label_changed(vectors)),
            ("sample", tiny_vectors(sizes={"train": 60, "validation": 24, "test": 24})),
        )
    )
    photos = [folder / name for name in ("photos", "swapped")]
    for each in photos:
        for number in range(40):
            write_photo(each / f"{number}.png", number % 20)
        rows = [f"{number}.png,{'sea' if number % 2 else 'beach;sea'}" for number in range(40)]
        (each / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    (photos[1] / "3.png").write_bytes((photos[0] / "4.png").read_bytes() + b"0")
    starts = [
        write_run(folder / name, data_dir=data, phase="pretrain", method="cld", seed=seed)
        for seed, name in enumerate(("pretrained", "other"))
    ]
    for number, start in enumerate(starts):
        (start / "encoder.weights.h5").write_bytes(bytes([number]))
        with (start / "flags.txt").open("a") as file:
            file.write("--backbone=mlp\n")
    common = {"strategy": "multiworker", "workdir": folder / "run"}
    small = flags(**common, dataset="npz", data_dir=data, batch_size=16, epochs=2)
    of_photos = flags(**common, dataset="csv")
    tuned = flags(**common, dataset="npz", data_dir=data)
    pairs = {
        "learning_rate": (small, [*small, "--learning_rate=5.0"]),
        "method": (small, [*small, "--method=mulsupcon"]),
        "batch_size": (small, [*small, "--batch_size=15"]),
        "logical_devices": (small, [*small, "--logical_devices=2"]),
        "a label": (small, [*small, f"--data_dir={label}"]),
        "a sample": (small, [*small, f"--data_dir={sample}"]),
        "two files": tuple([*of_photos, f"--data_dir={each}"] for each in photos),
        "weights": tuple([*tuned, f"--pretrained={each}"] for each in starts),
        "no data": (small, [*small, f"--data_dir={folder}/none"]),
    }
    by_name = {
        name: {"binary": "finetune" if name == "weights" else "pretrain", "arguments": arguments}
        for name, arguments in pairs.items()
    }
    by_name["devices"] = {"binary": "pretrain", "arguments": (small, small), "devices": (1, 2)}
    by_name["as many devices"] = {
        "binary": "pretrain",
        "arguments": [[*small, f"--workdir={folder / 'as_many'}"]] * 2,
        "devices": (2, 2),
        "signal_in": "pretraining.build_pretrainer",
    }
    # The first worker's copy of a file is broken, the second's of the same size is not.
    copies = [shutil.copytree(photos[0], folder / name) for name in ("broken", "whole")]
    (copies[0] / "7.png").write_bytes(b"?" * (copies[1] / "7.png").stat().st_size)
    skipping = flags(**common | {"workdir": folder / "skipping"}, dataset="csv", skip_bad_images=True, batch_size=8)
    by_name["bad images"] = {
        "binary": "pretrain",
        "arguments": [[*skipping, f"--data_dir={each}"] for each in copies],
        "signal_in": "pretraining.build_pretrainer",
    }
    return folder, by_name


def outcomes_by_name(pairs, names):
    """What came of each of these pairs, by what differs, and the folder of all workdirs."""
    folder, by_name = pairs
    return folder, dict(zip(names, outcomes_of([by_name[name] for name in names]), strict=True))


@pytest.fixture(scope="module")
def outcomes(pairs):
    return outcomes_by_name(pairs, [name for name in pairs[1] if name in BY_DEFAULT or name not in DIFFERENCES])


@pytest.fixture(scope="module")
def other_outcomes(pairs):
    return outcomes_by_name(pairs, [name for name in DIFFERENCES if name not in BY_DEFAULT])


def assert_both_end_with_one_line(folder, outcome, difference):
    assert outcome["statuses"] == [1, 1]
    for lines in outcome["lines"]:
        assert lines[-1] == RULE + difference
        assert not [line for line in lines if "Traceback" in line]
    assert outcome["seconds"] < 60
    assert not (folder / "run").exists()


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_two_workers_that_differ_end_both_with_one_line_that_says_in_what(outcomes, name):
    folder, of = outcomes
    assert_both_end_with_one_line(folder, of[name], DIFFERENCES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DIFFERENCES if name not in BY_DEFAULT])
def test_so_they_end_whatever_else_differs(other_outcomes, name):
    folder, of = other_outcomes
    assert_both_end_with_one_line(folder, of[name], DIFFERENCES[name])


def test_workers_with_different_numbers_of_devices_end_with_one_line_and_with_equal_ones_begin(outcomes):
    folder, of = outcomes
    rule = "error: Workers that train together must have as many devices each. Received: worker 0 with 1 CPU, worker 1 with 2"
    assert [lines[-1] for lines in of["devices"]["lines"]] == [f"{rule} CPU"] * 2
    assert of["devices"]["statuses"] == [1, 1] and of["devices"]["seconds"] < 60 and not (folder / "run").exists()
    assert of["as many devices"]["statuses"] == [143, 143]  # in the building of the model


def test_a_worker_that_cannot_begin_is_named_by_the_other(outcomes):
    folder, of = outcomes
    chiefs, own = of["no data"]["lines"]
    assert of["no data"]["statuses"] == [1, 1]
    assert own[-1] == f"error: --data_dir must be an existing folder for --dataset=npz. Received: {folder}/none"
    assert (
        chiefs[-1] == f"error: All workers must begin. Received: worker 1 ended with: {own[-1].removeprefix('error: ')}"
    )
    assert of["no data"]["seconds"] < 60 and not (folder / "run").exists()


def test_all_leave_out_the_images_that_the_chief_could_not_read(outcomes):
    folder, of = outcomes
    assert of["bad images"]["statuses"] == [143, 143]
    said = [[line.partition("; see")[0] for line in lines if "left out" in line] for lines in of["bad images"]["lines"]]
    assert said[0] == said[1] != []
    assert re.fullmatch(r"images left out as unreadable: [01] of \d+ in train, [01] of .*", said[0][0])
    assert sum(map(int, re.findall(r"(\d+) of", said[0][0]))) == 1
    assert (folder / "skipping" / "bad_images.txt").read_text().startswith("7.png\t")
