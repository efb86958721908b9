"""Label distribution learning data in MATLAB files: vectors whose true label distribution is known.

`--dataset=ldl --data_dir=FILE.mat`, or a folder that holds one such file: `features` `[N, F]` and `labels` `[N, C]`, the
distributions, as the collections of label distribution learning have them (SJAFFE, SBU_3DFE, Yeast_alpha, ...) [1].

- Labels: those with the largest shares until together they exceed one half. Of equal shares the lower column comes first.
- Names: label_0, label_1, ...
- Splits: about 25% are test, and 20% of the rest validation, by a hash of the features.

[1] Geng, Label Distribution Learning, TKDE 2016.
"""

import pathlib

import numpy as np

from mulsupcon_tf.datasets.base import MultiLabelDataset, Split
from mulsupcon_tf.datasets.checking import require_distributions, require_finite
from mulsupcon_tf.datasets.splitting import finish_dataset
from mulsupcon_tf.utils.atomic_file import regular_file
from mulsupcon_tf.utils.errors import InputError

RELEVANT_SHARE = 0.5
_ROUNDING = 1e-9  # shares such as 0.1 + 0.4 count as one half
_MEANINGS = {"features": "[samples, features]", "labels": "[samples, labels], the distributions"}


def load_ldl(name: str, data_dir: str | None, seed: int) -> MultiLabelDataset:
    """Loads `--dataset=ldl`; the module's page says what counts as a label.

    Args:
        name: to give to the dataset.
        data_dir: a `.mat` file, or a folder that holds one.
        seed: of the samples that become test and validation.

    Raises:
        InputError: there is no such file, or more than one in the folder; it cannot be read, lacks `features` or
            `labels`, or holds other numbers than finite features and distributions; a label is relevant for no sample.
    """
    path = _find(data_dir, name)
    tables = _read(path)
    features, distributions = (tables[key].astype(np.float32) for key in _MEANINGS)
    require_finite(features, f"'features' of {path}")
    if len(features) != len(distributions):
        raise InputError(
            f"features and labels must have one row for each sample. "
            f"Received: {len(features)} and {len(distributions)} rows in {path}"
        )
    require_distributions(distributions, f"'labels' of {path}")
    # In float32 shares such as 0.3 + 0.2 would fall on either side of one half.
    everything = Split(features, relevant_labels(tables["labels"]), distributions)
    names = tuple(f"label_{index}" for index in range(distributions.shape[1]))
    return finish_dataset(name, "vector", names, {"train": everything}, seed)


def relevant_labels(distributions: np.ndarray) -> np.ndarray:
    """Logical labels of distributions: the largest shares until their sum exceeds one half.

    Args:
        distributions: `[N, C]`, rows sum to 1, or to 0 for a sample without labels.

    Returns:
        `[N, C]` uint8, 0 or 1; never a label without any share.
    """
    shares = distributions.astype(np.float64)
    order = np.argsort(-shares, axis=1, kind="stable")
    ranked = np.take_along_axis(shares, order, axis=1)
    before = np.cumsum(ranked, axis=1) - ranked
    labels = np.zeros(shares.shape, np.uint8)
    np.put_along_axis(labels, order, ((before <= RELEVANT_SHARE + _ROUNDING) & (ranked > 0)).astype(np.uint8), axis=1)
    return labels


def _find(data_dir: str | None, dataset: str) -> pathlib.Path:
    path = None if data_dir is None else pathlib.Path(data_dir)
    if path is None or not path.exists():
        raise InputError(
            f"--data_dir must be an existing folder or .mat file for --dataset={dataset}. Received: {data_dir}"
        )
    if path.is_file():
        return path
    # macOS writes `._x.mat` beside `x.mat`.
    files = sorted(each for each in path.iterdir() if each.suffix.lower() == ".mat" and not each.name.startswith("."))
    if len(files) != 1:
        received = ", ".join(each.name for each in files) or "none"
        raise InputError(
            f"--data_dir must be a .mat file or hold one for --dataset={dataset}. Received: {received} in {path}"
        )
    return files[0]


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat

    try:
        content = loadmat(regular_file(path), variable_names=list(_MEANINGS))
    except Exception as error:  # damage may surface anywhere in the reader; a file of MATLAB 7.3 is HDF5
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"a .mat file must be readable, of MATLAB 4 to 7.2. Received: {path} ({reason})") from None
    tables = {}
    for key, meaning in _MEANINGS.items():
        table = content.get(key)
        if not isinstance(table, np.ndarray) or table.ndim != 2 or table.dtype.kind not in "fiub":
            received = "none" if table is None else f"{getattr(table, 'dtype', type(table).__name__)} {np.shape(table)}"
            raise InputError(f"a .mat file must hold numbers {key!r} {meaning}. Received: {received} in {path}")
        tables[key] = table
    return tables
