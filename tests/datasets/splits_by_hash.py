"""Where a sample belongs that no file gives a split, by the rule that docs/datasets.md states, in plain Python."""

import hashlib

SHARES = {"test": 0.25, "validation": 0.2}


def draw(sample: bytes, part: str, seed: int = 0) -> float:
    """The number in [0, 1) that the sample is held against the share of `part` with."""
    return int(hashlib.sha256(f"{part} {seed}\n".encode() + sample).hexdigest()[:12], 16) / 16**12


def place(sample: bytes | str, *, parts=("test", "validation")) -> str:
    """The split of a file's name or a row's bytes; `parts` are those that are missing."""
    data = sample.encode() if isinstance(sample, str) else sample
    return next((part for part in parts if draw(data, part) < SHARES[part]), "train")


def rows_by_split(dataset) -> dict[str, str]:
    """Maps what is in each sample, the name of a file or the numbers of a row as text, to its split."""
    return {
        sample: name
        for name, split in dataset.splits.items()
        for sample in (split.inputs.names if dataset.on_disk else [str(row.ravel().tolist()) for row in split.inputs])
    }
