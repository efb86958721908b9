import dataclasses

import numpy as np
import pytest

from mulsupcon_tf.reporting import recovered as report_recovered
from mulsupcon_tf.reporting.inputs import load_inputs
from tests.helpers.hand_made_runs import SIZES, write_run
from tests.helpers.html_page import Page
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_images, tiny_vectors, write_npz


def inputs_of(tmp_path, dataset, method="cld"):
    data = write_npz(dataset, tmp_path / "data")
    return load_inputs([write_run(tmp_path / "run", data_dir=data, phase="pretrain", method=method)])


def test_shares_equal_a_loop():
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 4)) < 0.5).astype(np.uint8)
    labels[:, 3] = 0  # no sample has it
    labels[5] = 0
    recovered = rng.dirichlet(np.ones(4), 30)
    shares, equal, leaked = report_recovered.shares_of_labels(labels, recovered)
    for j in range(4):
        having = [i for i in range(30) if labels[i][j]]
        lacking = [i for i in range(30) if not labels[i][j]]
        assert leaked[j] == pytest.approx(np.mean([recovered[i][j] for i in lacking]))
        if not having:
            assert np.isnan(shares[j]) and np.isnan(equal[j])
            continue
        own = [recovered[i][j] / sum(recovered[i][m] for m in range(4) if labels[i][m]) for i in having]
        assert shares[j] == pytest.approx(np.mean(own))
        assert equal[j] == pytest.approx(np.mean([1 / labels[i].sum() for i in having]))


def test_every_label_has_a_row_and_frequent_ones_come_first(tmp_path):
    dataset = tiny_vectors(sizes=SIZES)
    page = Page(report_recovered.recovered_section(inputs_of(tmp_path, dataset)))
    rows = page.tables["recovered-labels"][1:]
    frequencies = dict(zip(LABEL_NAMES, dataset.splits["train"].labels.mean(axis=0), strict=True))
    assert [row[0] for row in rows] == sorted(LABEL_NAMES, key=lambda name: -frequencies[name])
    assert page.images[0][1].std() > 5


def test_there_is_no_such_section_where_the_truth_is_known_or_nothing_was_recovered(tmp_path):
    dataset = tiny_images(sizes=SIZES)
    assert report_recovered.recovered_section(inputs_of(tmp_path / "truth", dataset)) is None
    splits = {name: dataclasses.replace(split, distributions=None) for name, split in dataset.splits.items()}
    unknown = dataclasses.replace(dataset, splits=splits)
    assert report_recovered.recovered_section(inputs_of(tmp_path / "any", unknown, method="any")) is None
    assert report_recovered.recovered_section(inputs_of(tmp_path / "cld", unknown)) is not None
