import numpy as np
import pytest
import scipy.io

from mulsupcon_tf.datasets.vectors.ldl import load_ldl, relevant_labels
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.splits_by_hash import place


def naive_relevant(row):
    """The rule in words: take the largest share that is left until the sum exceeds one half."""
    chosen, total = np.zeros(len(row), np.uint8), 0.0
    while total <= 0.5 + 1e-9 and chosen.sum() < len(row):
        best = max((column for column in range(len(row)) if not chosen[column]), key=lambda column: row[column])
        chosen[best] = 1
        total += row[best]
    return chosen


def write_mat(path, **other):
    rng = np.random.default_rng(0)
    tables = {"features": rng.normal(size=(40, 3)), "labels": rng.dirichlet(np.ones(4), 40)} | other
    scipy.io.savemat(path, {key: value for key, value in tables.items() if value is not None})
    return path


def test_relevant_labels_equal_the_rule_taken_step_by_step():
    rows = np.random.default_rng(0).dirichlet(np.full(7, 0.5), 200)
    np.testing.assert_array_equal(relevant_labels(rows), [naive_relevant(row) for row in rows])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.6, 0.4], [1, 0]),
        ([0.5, 0.5], [1, 1]),  # one half does not exceed one half
        ([0.1, 0.4, 0.4, 0.1], [0, 1, 1, 0]),
        ([0.25, 0.25, 0.25, 0.25], [1, 1, 1, 0]),
        ([1.0, 0.0], [1, 0]),
        ([0.0, 0.0], [0, 0]),
    ],
)
def test_a_half_does_not_exceed_a_half_and_a_label_without_a_share_is_never_relevant(row, expected):
    assert relevant_labels(np.array([row])).tolist() == [expected]


@pytest.mark.parametrize(
    ("file", "count", "features", "labels"),
    [("SJAFFE", 213, 243, 6), ("SBU_3DFE", 2500, 243, 6), ("Yeast_alpha", 2465, 24, 18)],
)
def test_real_sets_keep_every_sample_and_its_distribution(shared_data, file, count, features, labels):
    path = shared_data / "ldl" / f"{file}.mat"
    dataset = load_ldl("ldl", str(path), 0)
    assert (dataset.name, dataset.kind) == ("ldl", "vector")
    assert (dataset.input_shape, dataset.num_labels) == ((features,), labels)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sum(sizes.values()) == count
    for name, share in {"train": 0.6, "validation": 0.15, "test": 0.25}.items():
        assert abs(sizes[name] - count * share) < 4 * np.sqrt(count * share * (1 - share)), name
    raw = scipy.io.loadmat(path)
    together = np.concatenate([split.distributions for split in dataset.splits.values()])
    np.testing.assert_array_equal(np.sort(together, axis=0), np.sort(raw["labels"].astype(np.float32), axis=0))
    pairs = zip(raw["features"].astype(np.float32), raw["labels"].astype(np.float32), strict=True)
    labels_of = {
        inputs.tobytes() + distribution.tobytes(): naive_relevant(row)
        for (inputs, distribution), row in zip(pairs, raw["labels"], strict=True)
    }
    for name, split in dataset.splits.items():
        assert {place(row.tobytes()) for row in split.inputs} == {name}
        for inputs, distribution, sample_labels in zip(split.inputs, split.distributions, split.labels, strict=True):
            np.testing.assert_array_equal(sample_labels, labels_of[inputs.tobytes() + distribution.tobytes()])


def test_a_folder_with_one_file_is_that_file(tmp_path):
    path = write_mat(tmp_path / "some.mat")
    (tmp_path / "._some.mat").write_bytes(bytes(24))  # a file manager's
    assert load_ldl("ldl", str(tmp_path), 0).fingerprint() == load_ldl("ldl", str(path), 0).fingerprint()


def test_two_files_and_none_in_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="Received: none in"):
        load_ldl("ldl", str(tmp_path), 0)
    write_mat(tmp_path / "a.mat")
    (tmp_path / "._a.mat").write_bytes(b"of a Mac")
    assert load_ldl("ldl", str(tmp_path), 0).num_labels
    write_mat(tmp_path / "b.mat")
    with pytest.raises(InputError, match=r"Received: a.mat, b.mat in"):
        load_ldl("ldl", str(tmp_path), 0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"labels": None}, "'labels' .* Received: none"),
        ({"features": "text"}, "'features' .* Received: <U4"),
        ({"labels": np.full((40, 4), 0.3)}, "sum 1.2"),
        ({"labels": np.full((39, 4), 0.25)}, "40 and 39 rows"),
        ({"features": np.full((40, 3), np.nan)}, "finite"),
    ],
)
def test_other_contents_are_refused_with_the_file_named(tmp_path, other, message):
    path = write_mat(tmp_path / "x.mat", **other)
    with pytest.raises(InputError, match=message) as caught:
        load_ldl("ldl", str(path), 0)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no MATLAB file at all", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.mat"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_ldl("ldl", str(path), 0)
    assert "\n" not in str(caught.value)
