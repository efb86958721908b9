"""Several versions of each sample that were computed beforehand, in arrays that stay on disk until a batch needs them."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class FixedViews:
    """V versions of each of N samples.

    Attributes:
        parts: of each part its V arrays `[M, F]`, memory-mapped, whose rows are its M samples.
        places: `[N, 2]` int64, the part of each sample and its row there.
    """

    parts: tuple[tuple[np.ndarray, ...], ...]
    places: np.ndarray

    @classmethod
    def of(cls, views: tuple[np.ndarray, ...]) -> "FixedViews":
        """All samples of one part.

        Args:
            views: V arrays `[M, F]`.
        """
        rows = np.arange(len(views[0]))
        return cls((views,), np.stack([np.zeros_like(rows), rows], axis=1))

    @property
    def number(self) -> int:
        """V."""
        return len(self.parts[0])

    def __getitem__(self, rows) -> "FixedViews":
        """The samples at `rows`: a slice, indices or a boolean mask, as for an array; nothing is read."""
        return FixedViews(self.parts, self.places[rows])

    def followed_by(self, others: "FixedViews") -> "FixedViews":
        """These samples and then others that have as many views; nothing is read."""
        places = np.concatenate([self.places, others.places + np.array([len(self.parts), 0])])
        return FixedViews(self.parts + others.parts, places)

    def read(self, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """One view of each of some samples.

        Args:
            rows: `[B]`, the samples.
            numbers: `[B]`, from 0 to V − 1.

        Returns:
            `[B, F]` float32.
        """
        part, row = self.places[rows].T
        found = np.empty((len(rows), self.parts[0][0].shape[1]), np.float32)
        for place, views in enumerate(self.parts):
            for number, view in enumerate(views):
                here = (part == place) & (numbers == number)
                found[here] = view[row[here]]
        return found
