import hashlib
import os

import numpy as np

from mulsupcon_tf.datasets.base import FINGERPRINT_PARTS, ImageFiles, MultiLabelDataset, Split


def test_sizes_are_those_of_the_arrays():
    split = Split(np.zeros((3, 8, 9, 1), np.uint8), np.zeros((3, 2), np.uint8))
    dataset = MultiLabelDataset("mine", "image", ("cat", "dog"), {"train": split})

    assert len(split) == 3
    assert dataset.num_labels == 2
    assert dataset.input_shape == (8, 9, 1)


def dataset_of(inputs, labels, names=("cat", "dog"), distributions=None):
    split = Split(inputs, labels, distributions)
    return MultiLabelDataset("mine", "image", names, dict.fromkeys(("train", "validation", "test"), split))


def image_files(*names):
    return ImageFiles(np.array([f"/data/{name}" for name in names], object))


def test_image_files_are_taken_by_mask_and_index_and_have_no_size_of_their_own():
    files = image_files("a.jpg", "b.jpg", "c.jpg")
    dataset = dataset_of(files, np.ones((3, 2), np.uint8))
    assert dataset.on_disk
    assert dataset.input_shape == (None, None, 3)
    assert dataset.train_features is None
    assert len(files) == 3
    assert files[np.array([True, False, True])].paths.tolist() == ["/data/a.jpg", "/data/c.jpg"]
    assert files[1:].paths.tolist() == ["/data/b.jpg", "/data/c.jpg"]


def parts_of(dataset):
    return dict(zip(FINGERPRINT_PARTS, dataset.fingerprint().split(":"), strict=True))


def differing(one, other):
    """Names of the parts of two fingerprints that are not the same."""
    here, there = parts_of(one), parts_of(other)
    return {name for name in here if here[name] != there[name]}


def test_samples_are_taken_with_their_labels_and_distributions():
    labels = np.eye(4, dtype=np.uint8)
    split = Split(np.arange(8).reshape(4, 2), labels, labels / 2)
    for rows in (slice(1, 3), np.array([2, 0]), np.array([True, False, False, True])):
        taken = split[rows]
        for part, whole in ((taken.inputs, split.inputs), (taken.labels, labels), (taken.distributions, labels / 2)):
            np.testing.assert_array_equal(part, whole[rows])
    assert Split(split.inputs, labels)[:2].distributions is None


def test_a_fingerprint_sees_each_part_of_the_data_and_says_which_has_changed():
    labels, shares = np.eye(2, dtype=np.uint8), np.eye(2, dtype=np.float32)
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    one = dataset_of(images, labels, distributions=shares)
    assert differing(one, dataset_of(images.copy(), labels.copy(), distributions=shares.copy())) == set()
    assert differing(one, dataset_of(images + 1, labels, distributions=shares)) == {"inputs"}
    assert differing(one, dataset_of(images.reshape(2, 4, 3, 1), labels, distributions=shares)) == {"inputs"}
    assert differing(one, dataset_of(images, labels[::-1], distributions=shares)) == {"labels"}
    assert differing(one, dataset_of(images, labels, ("cat", "cow"), shares)) == {"label names"}
    assert differing(one, dataset_of(images, labels, ("dog", "cat"), shares)) == {"label names"}
    assert differing(one, dataset_of(images, labels, distributions=shares[::-1])) == {"distributions"}
    assert differing(one, dataset_of(images, labels)) == {"distributions"}
    fewer = dataset_of(images[:1], labels[:1], distributions=shares[:1])
    assert differing(one, fewer) == {"samples", "labels", "inputs", "distributions"}
    assert (parts_of(one)["version"], parts_of(one)["samples"]) == ("2", "2/2/2")
    assert differing(dataset_of(images, labels, ("a", "b\nc")), dataset_of(images, labels, ("a\nb", "c"))) == {
        "label names"
    }


def test_a_sample_that_changes_its_split_changes_the_fingerprint():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    labels = np.ones((2, 2), np.uint8)
    first, second = (Split(images[[row]], labels[[row]]) for row in (0, 1))
    one = {"train": first, "validation": second, "test": first}
    other = {"train": second, "validation": first, "test": first}
    assert differing(*(MultiLabelDataset("mine", "image", ("cat", "dog"), splits) for splits in (one, other))) == {
        "inputs"
    }


def test_image_files_count_by_name_below_their_folder_and_by_size(tmp_path):
    def dataset(folder, **contents):
        for name, content in contents.items():
            path = folder / f"{name.replace('_', '/')}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        files = ImageFiles.below(folder, [f"{name.replace('_', '/')}.jpg" for name in contents])
        return dataset_of(files, np.eye(2, dtype=np.uint8))

    one = dataset(tmp_path / "one", a_1=b"beach", b_1=b"sea")
    assert differing(one, dataset(tmp_path / "two" / "deeper", a_1=b"beach", b_1=b"sea")) == set()
    assert differing(one, dataset(tmp_path / "three", b_1=b"beach", a_1=b"sea")) == {
        "inputs"
    }  # swapped between folders
    assert differing(one, dataset(tmp_path / "four", a_1=b"sea", b_1=b"beach")) == {"sizes"}
    assert [size for size, _ in one.splits["train"].inputs.stamps()] == [5, 3]


def test_sizes_and_times_follow_links_and_files_that_are_not_there_have_none(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"beach")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    os.utime(tmp_path / "a.jpg", ns=(1, 7))
    files = ImageFiles.below(tmp_path, ["link.jpg", "a.jpg", "broken.jpg", "absent.jpg", "no/folder.jpg"])
    assert files.stamps() == [(5, 7), (5, 7), (-1, -1), (-1, -1), (-1, -1)]


def test_the_fingerprint_of_before_is_still_computed_for_runs_that_stored_it():
    """Of these arrays, as the version before wrote it."""
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    labels = np.eye(2, dtype=np.uint8)
    expected = hashlib.sha256(b"cat\ndog" + 3 * (labels.tobytes() + images.tobytes())).hexdigest()[:16]
    assert dataset_of(images, labels).earlier_fingerprint() == expected
    expected = hashlib.sha256(b"cat\ndog" + 3 * (labels.tobytes() + b"a.jpg\nb.jpg")).hexdigest()[:16]
    assert dataset_of(image_files("a.jpg", "sub/b.jpg"), labels).earlier_fingerprint() == expected
