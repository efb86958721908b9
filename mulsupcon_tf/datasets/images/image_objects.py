"""Which objects stand in which images, and the labels and label distributions that follow."""

import dataclasses

import numpy as np

from mulsupcon_tf.datasets.base import ImageFiles


@dataclasses.dataclass(frozen=True)
class ImageObjects:
    """N image files and the O objects in them; an image may have none.

    Attributes:
        files: the images.
        rows: `[O]` int64, the image of each object.
        columns: `[O]` int64, its label.
        areas: `[O]` float64, its size in any unit, 0 or more; NaN where it is not known.
    """

    files: ImageFiles
    rows: np.ndarray
    columns: np.ndarray
    areas: np.ndarray

    def labels(self, num_labels: int) -> np.ndarray:
        """`[N, C]` uint8: 1 where an image has at least one object of the label."""
        labels = np.zeros((len(self.files), num_labels), np.uint8)
        labels[self.rows, self.columns] = 1
        return labels

    def area_shares(self, num_labels: int) -> np.ndarray:
        """`[N, C]` float32: area of the objects of each label by that of all objects of the image; areas must be known.

        An image without objects has a row of zeros. Where all objects have area 0 its labels share equally, so that a
        row is never 0 for an image with labels.
        """
        areas = np.zeros((len(self.files), num_labels))
        np.add.at(areas, (self.rows, self.columns), self.areas)
        labels = self.labels(num_labels)
        areas = np.where(areas.sum(axis=1, keepdims=True) > 0, areas, labels)
        return (areas / np.maximum(areas.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)).astype(np.float32)
