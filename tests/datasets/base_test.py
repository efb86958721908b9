import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split


def test_sizes_are_those_of_the_arrays():
    split = Split(np.zeros((3, 8, 9, 1), np.uint8), np.zeros((3, 2), np.uint8))
    dataset = MultiLabelDataset("mine", "image", ("cat", "dog"), {"train": split})

    assert len(split) == 3
    assert dataset.num_labels == 2
    assert dataset.input_shape == (8, 9, 1)
