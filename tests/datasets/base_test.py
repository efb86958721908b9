import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split


def test_sizes_are_those_of_the_arrays():
    split = Split(np.zeros((3, 8, 9, 1), np.uint8), np.zeros((3, 2), np.uint8))
    dataset = MultiLabelDataset("mine", "image", ("cat", "dog"), {"train": split})

    assert len(split) == 3
    assert dataset.num_labels == 2
    assert dataset.input_shape == (8, 9, 1)


def dataset_of(inputs, labels, names=("cat", "dog")):
    return MultiLabelDataset(
        "mine", "image", names, dict.fromkeys(("train", "validation", "test"), Split(inputs, labels))
    )


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


def test_a_fingerprint_is_that_of_the_content():
    labels = np.eye(2, dtype=np.uint8)
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    same = dataset_of(images.copy(), labels.copy()).fingerprint()
    assert dataset_of(images, labels).fingerprint() == same
    others = [
        dataset_of(images + 1, labels), dataset_of(images, labels[::-1]), dataset_of(images, labels, ("cat", "cow")),
        dataset_of(image_files("a.jpg", "b.jpg"), labels), dataset_of(image_files("a.jpg", "c.jpg"), labels),
    ]  # fmt: skip
    assert len({same, *(other.fingerprint() for other in others)}) == 6
    moved = ImageFiles(np.array(["/elsewhere/a.jpg", "/elsewhere/b.jpg"], object))
    assert dataset_of(moved, labels).fingerprint() == others[3].fingerprint()
