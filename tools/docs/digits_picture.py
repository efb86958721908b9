"""A picture of docs/findings.md: scenes of `digits`, and the true and the recovered share of each label below them.

python -m tools.docs.digits_picture runs/demo/pretrain --output=docs/digits.png
"""

import dataclasses
import pathlib

import numpy as np

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError

SCENES = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureConfig:
    """Settings of `tools/docs/digits_picture.py`."""

    output: str = dataclasses.field(default="docs/digits.png", metadata={"help": "PNG file to write."})


def main(config: PictureConfig, workdirs: list[str]) -> None:
    """Writes the picture of one pretraining on digits."""
    from mulsupcon_tf.reporting.figures import scenes_with_shares
    from mulsupcon_tf.reporting.inputs import load_inputs

    if len(workdirs) != 1:
        raise InputError(f"One run directory of a pretraining on digits is needed. Received: {len(workdirs)}")
    inputs = load_inputs(workdirs)
    test = inputs.dataset.splits["test"]
    if not isinstance(test.inputs, np.ndarray) or test.distributions is None or inputs.recovered is None:
        raise InputError(f"The run must recover distributions of digits. Received: {workdirs[0]}")
    # The first scenes with three digits or more: not chosen by how well they came out.
    rows = np.flatnonzero(test.labels.sum(axis=1) >= 3)[:SCENES]
    png = scenes_with_shares(
        test.inputs[rows], inputs.dataset.label_names, test.distributions[rows], inputs.recovered[rows]
    )
    path = pathlib.Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file.replacing(path) as temporary:
        temporary.write_bytes(png)
    print(f"picture: {path}")


if __name__ == "__main__":
    run_binary(PictureConfig, main, usage=__doc__, takes_files=True)
