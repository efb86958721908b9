import h5py
import numpy as np
import pytest

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import (
    divide_by_hash,
    finish_dataset,
    require_true_distributions,
    sample_hashes,
    split_off,
    stratified_share,
    with_share_of_train,
    with_true_distributions_as_labels,
)
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.datasets.splits_by_hash import draw, place


def numbered(count, first=0):
    """Samples that carry their own number in input, labels and distribution."""
    labels = np.stack([np.arange(count) % 2, np.arange(count) % 2 == 0], axis=1).astype(np.uint8)
    return Split(np.arange(first, first + count, dtype=np.float32)[:, None], labels, labels.astype(np.float32))


@pytest.mark.parametrize(("count", "fraction", "drawn"), [(10, 0.2, 2), (11, 0.25, 3), (2, 0.2, 1), (1000, 0.2, 200)])
def test_every_sample_lands_on_one_side_and_keeps_its_labels_and_order(count, fraction, drawn):
    rest, part = split_off(numbered(count), fraction, seed=3)

    assert len(part) == drawn
    assert sorted([*rest.inputs[:, 0], *part.inputs[:, 0]]) == list(range(count))
    for side in (rest, part):
        assert list(side.inputs[:, 0]) == sorted(side.inputs[:, 0])
        np.testing.assert_array_equal(side.labels[:, 0], side.inputs[:, 0] % 2)
        np.testing.assert_array_equal(side.distributions, side.labels)


def test_the_draw_depends_on_its_seed_and_on_nothing_else():
    np.random.seed(1)
    first = split_off(numbered(100), 0.2, seed=0)[1].inputs
    np.random.seed(2)

    np.testing.assert_array_equal(first, split_off(numbered(100), 0.2, seed=0)[1].inputs)
    assert not np.array_equal(first, split_off(numbered(100), 0.2, seed=1)[1].inputs)


def files(*names, folder="/data"):
    return ImageFiles(np.array([f"{folder}/{name}" for name in names], object), folder=folder)


def labelled(inputs):
    return Split(inputs, np.ones((len(inputs), 2), np.uint8))


def test_a_hash_is_that_of_the_name_or_of_the_numbers():
    inputs = np.array([[1.5, -2], [3, 0.1]], np.float32)
    expected = [draw(np.array(row, "<f4").tobytes(), "test") for row in inputs]
    np.testing.assert_allclose(sample_hashes(inputs, "test 0"), expected, rtol=0, atol=1e-12)
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    np.testing.assert_allclose(
        sample_hashes(pixels, "test 0"), [draw(bytes(range(i, i + 12)), "test") for i in (0, 12)]
    )
    names = ("a.jpg", "beach/Übung.jpg")
    expected = [draw(name.encode(), "validation") for name in names]
    np.testing.assert_allclose(sample_hashes(files(*names), "validation 0"), expected, rtol=0, atol=1e-12)


def test_how_a_sample_is_written_does_not_matter():
    composed, decomposed = "b\u00fccher/1.jpg", "bu\u0308cher/1.jpg"  # as Linux and as macOS write it
    assert sample_hashes(files(composed), "x") == sample_hashes(files(decomposed), "x")
    assert sample_hashes(files("a/1.jpg"), "x") == sample_hashes(files("a/1.jpg", folder="/mnt/photos/new"), "x")
    assert sample_hashes(files("a/1.jpg"), "x") == sample_hashes(
        ImageFiles(np.array(["a/1.jpg"], object), folder="."), "x"
    )
    assert sample_hashes(files("a/1.jpg"), "x") != sample_hashes(files("b/1.jpg"), "x")
    zeros = np.array([[0.0, 1], [-0.0, 1]], np.float32)
    assert len(set(sample_hashes(zeros, "x"))) == 1


def test_where_these_names_belong_never_changes():
    """Written down once: a run is judged on the split that it was trained with, by every later version."""
    splits = divide_by_hash(labelled(files(*map(str, range(20)))), ["test", "validation"], seed=0)
    assert {name: [*map(int, split.inputs.names)] for name, split in splits.items()} == {
        "train": [1, 6, 7, 8, 9, 13, 14, 15, 17, 18, 19],
        "validation": [0, 3, 4, 5, 10, 11, 16],
        "test": [2, 12],
    }


def test_each_sample_goes_where_its_own_hash_says_and_the_shares_are_nearly_met():
    names = [f"trip/{number}.jpg" for number in range(2000)]
    splits = divide_by_hash(labelled(files(*names)), ["test", "validation"], seed=0)
    for name, split in splits.items():
        assert split.inputs.names == [each for each in names if place(each) == name]
    for name, share in {"train": 0.6, "validation": 0.15, "test": 0.25}.items():
        deviation = np.sqrt(2000 * share * (1 - share))
        assert abs(len(splits[name]) - 2000 * share) < 4 * deviation, name


def test_giving_a_test_split_of_ones_own_moves_nothing_between_the_other_two():
    names = [f"{number}.jpg" for number in range(200)]
    both = divide_by_hash(labelled(files(*names)), ["test", "validation"], seed=0)
    rest = [name for name in names if name not in both["test"].inputs.names]
    one = divide_by_hash(labelled(files(*rest)), ["validation"], seed=0)
    assert one.keys() == {"train", "validation"}
    assert one["validation"].inputs.names == both["validation"].inputs.names


def test_the_missing_splits_of_a_dataset_are_drawn_by_hash():
    inputs = np.arange(300, dtype=np.float32)[:, None]
    dataset = finish_dataset("mine", "vector", ("a", "b"), {"train": labelled(inputs)}, seed=0)
    for name, split in dataset.splits.items():
        assert split.inputs[:, 0].tolist() == [row for row in range(300) if place(inputs[row].tobytes()) == name]


def test_equal_rows_go_to_one_split():
    inputs = np.repeat(np.arange(40, dtype=np.float32)[:, None], 3, axis=0)
    splits = finish_dataset("mine", "vector", ("a", "b"), {"train": labelled(inputs)}, seed=0).splits
    seen = [set(split.inputs[:, 0].tolist()) for split in splits.values()]
    assert sum(map(len, seen)) == 40 == len(set.union(*seen))


@pytest.mark.parametrize("count", [3, 4, 5, 10, 40])
def test_few_samples_fill_every_split_and_it_is_said_when_one_goes_against_its_hash(count, caplog):
    reported = 0
    for first in range(0, 400, 20):
        names = [f"{number}.jpg" for number in range(first, first + count)]
        caplog.clear()
        splits = divide_by_hash(labelled(files(*names)), ["test", "validation"], seed=0)
        assert sorted(name for split in splits.values() for name in split.inputs.names) == sorted(names)
        assert min(map(len, splits.values())) >= 1
        moved = {part for part, split in splits.items() for name in split.inputs.names if place(name) != part}
        assert moved == {part for part in splits if f"falls into {part}" in caplog.text}
        reported += len(moved)
    assert bool(reported) == (count < 40)


def test_an_empty_split_gets_the_lowest_hash_of_the_fullest_one():
    names = [name for name in map(str, range(200)) if place(name) == "train"][:6]
    names += [name for name in map(str, range(200)) if place(name) == "test"][:2]
    splits = divide_by_hash(labelled(files(*names)), ["test", "validation"], seed=0)
    lowest = min(names[:6], key=lambda name: draw(name.encode(), "validation"))
    assert splits["validation"].inputs.names == [lowest]
    assert splits["test"].inputs.names == names[6:]


def test_equal_rows_are_not_torn_apart_to_fill_a_split():
    inputs = np.repeat(np.float32([[1], [2], [3]]), [5, 1, 1], axis=0)
    splits = divide_by_hash(labelled(inputs), ["test", "validation"], seed=0)
    assert sorted([*set(split.inputs[:, 0].tolist())] for split in splits.values()) == [[1.0], [2.0], [3.0]]


def test_a_published_set_is_divided_by_number_in_exact_shares():
    """As long as its files are the same: what tables of results compare."""
    dataset = finish_dataset("scene", "vector", ("odd", "even"), {"train": numbered(100)}, seed=0, published=True)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 60, "validation": 15, "test": 25}
    numbers = np.concatenate([split.inputs[:, 0] for split in dataset.splits.values()])
    assert sorted(numbers) == list(range(100))


def test_given_splits_stay_as_they_are():
    parts = {"train": numbered(50), "validation": numbered(7, first=50), "test": numbered(9, first=57)}
    assert finish_dataset("mine", "vector", ("odd", "even"), parts, seed=0).splits == parts


def test_a_single_sample_cannot_be_divided():
    with pytest.raises(InputError, match=r"at least one sample. Received: 0 in split '(train|validation)'"):
        finish_dataset("mine", "vector", ("odd", "even"), {"train": numbered(1), "test": numbered(4)}, seed=0)


@pytest.mark.parametrize("fraction", [0.03, 0.1, 0.5, 0.9, 1.0])
def test_a_stratified_share_keeps_every_label_of_a_real_set_in_proportion(shared_data, fraction):
    train = load_dataset("yeast", data_dir=str(shared_data / "mulan")).splits["train"]
    kept = stratified_share(train, fraction, seed=1)

    assert len(kept) == round(fraction * len(train))
    off = np.abs(kept.labels.sum(axis=0) - fraction * train.labels.sum(axis=0))
    drawn = np.random.default_rng(1).permutation(len(train))[: len(kept)]
    off_by_chance = np.abs(train.labels[drawn].sum(axis=0) - fraction * train.labels.sum(axis=0))
    assert off.max() <= 8 and off.mean() <= max(1, off_by_chance.mean() / 2)
    assert kept.labels.any(axis=0)[train.labels.sum(axis=0) * fraction >= 1].all()


def test_a_stratified_share_keeps_samples_whole_and_in_order_and_follows_the_seed():
    whole = numbered(60)
    first, again, other = (stratified_share(whole, 0.3, seed) for seed in (0, 0, 1))
    rows = first.inputs[:, 0].astype(int)
    assert (np.diff(rows) > 0).all() and len(rows) == 18
    np.testing.assert_array_equal(first.labels, whole.labels[rows])
    np.testing.assert_array_equal(first.distributions, whole.distributions[rows])
    np.testing.assert_array_equal(first.inputs, again.inputs)
    assert first.inputs.tolist() != other.inputs.tolist()


def test_samples_without_labels_fill_a_stratified_share_up():
    labels = np.zeros((50, 2), np.uint8)
    labels[:10, 0] = 1
    kept = stratified_share(Split(np.arange(50, dtype=np.float32)[:, None], labels), 0.4, seed=0)
    assert len(kept) == 20 and kept.labels[:, 0].sum() == 4


def test_a_share_of_train_leaves_validation_and_test_whole(shared_data):
    dataset = load_dataset("scene", data_dir=str(shared_data / "mulan"))
    less = with_share_of_train(dataset, 0.1, seed=0)
    assert {name: len(split) for name, split in less.splits.items()} == {"train": 97, "validation": 242, "test": 1196}
    assert less.splits["test"] is dataset.splits["test"]


def test_true_distributions_as_labels_are_above_0_on_just_the_labels_there_are():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]], np.uint8)
    truth = np.array([[0.6, 0.3, 0.1], [1, 0, 0], [0, 0, 0], [0.75, 0.25, 0]], np.float32)
    train = Split(np.zeros((4, 2), np.float32), labels, truth)
    dataset = MultiLabelDataset("npz", "vector", ("a", "b", "c"), {"train": train, "validation": train, "test": train})
    require_true_distributions(dataset)
    fed = with_true_distributions_as_labels(dataset)
    expected = np.array([[0.6, 0.3, 0], [1, 0, 0], [0, 0, 0], [0.75, 0.25, 1e-6]], np.float32)
    np.testing.assert_array_equal(fed.splits["train"].labels, expected)
    assert fed.splits["test"] is train
    assert fed.splits["train"].inputs is train.inputs


def test_a_dataset_without_the_truth_is_refused():
    train = Split(np.zeros((4, 2), np.float32), np.ones((4, 3), np.uint8))
    dataset = MultiLabelDataset(
        "scene", "vector", ("a", "b", "c"), {"train": train, "validation": train, "test": train}
    )
    with pytest.raises(InputError, match=r"^--method=truth needs a dataset with true label distributions, .*=scene, "):
        require_true_distributions(dataset)


def write_with_one_unknown(folder, form, labels):
    """A table of 40 samples, -1 where a label is unknown: train and test in two files, or one table that names splits or none."""
    features = np.arange(len(labels), dtype=np.float32)[:, None]
    if form == "arff":
        lines = [
            f"{row[0]},{','.join('?' if each < 0 else str(each) for each in known)}"
            for row, known in zip(features, labels, strict=True)
        ]
        attributes = "@attribute f numeric\n@attribute a {0,1}\n@attribute b {0,1}\n"
        (folder / "mine.arff").write_text(f"@relation r\n{attributes}@data\n" + "\n".join(lines))
        (folder / "mine.xml").write_text('<labels><label name="a"/><label name="b"/></labels>')
    elif form.startswith("csv"):
        part = (lambda row: ("train", "val", "test")[row % 3]) if form == "csv with splits" else lambda row: ""
        lines = [f"{row}.png,{known[0]},{known[1]},{part(row)}" for row, known in enumerate(labels)]
        (folder / "labels.csv").write_text("\n".join(["file,a,b,split", *lines]))
        for row in range(len(labels)):
            write_photo(folder / f"{row}.png")
    else:
        for name, rows in {"train": slice(0, 30), "test": slice(30, 40)}.items():
            if form == "npz":
                np.savez(folder / f"{name}.npz", features=features[rows], labels=labels[rows])
            else:
                with h5py.File(folder / f"{name}.hdf5", "w") as file:
                    file["feature"], file["target"] = features[rows], labels[rows]


@pytest.mark.parametrize("form", ["npz", "hdf5", "arff", "csv", "csv with splits"])
def test_one_unknown_label_makes_no_other_split_partial(tmp_path, form):
    labels = np.eye(2, dtype=np.int64)[np.arange(40) % 2]
    labels[3, 1] = -1
    write_with_one_unknown(tmp_path, form, labels)
    dataset = load_dataset(form.split()[0], str(tmp_path))

    assert dataset.num_unknown == 1
    seen = {}
    for split in dataset.splits.values():
        assert split.labels.dtype == (np.float32 if split.unknown.any() else np.uint8)
        rows = (
            [int(name.removesuffix(".png")) for name in split.inputs.names] if dataset.on_disk else split.inputs[:, 0]
        )
        seen |= dict(zip(map(int, rows), np.where(split.unknown, -1, split.labels).tolist(), strict=True))
    np.testing.assert_array_equal([seen[row] for row in range(40)], labels)
    for seed in range(6):  # with the unknown one and without
        train = with_share_of_train(dataset, 0.2, seed).splits["train"]
        assert train.labels.dtype == (np.float32 if train.unknown.any() else np.uint8)
