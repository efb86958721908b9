import json

import numpy as np
import pytest

from mulsupcon_tf.datasets.base import Split
from mulsupcon_tf.reporting import neighbours as report_neighbours
from mulsupcon_tf.reporting.inputs import load_inputs
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.hand_made_runs import SIZES, write_run
from tests.helpers.html_page import Page
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_images, tiny_vectors, write_npz


def section_of(tmp_path, dataset, *, phase="pretrain", method="cld", retrieval=None):
    data = write_npz(dataset, tmp_path / "data")
    run = write_run(tmp_path / "run", data_dir=data, phase=phase, method=method)
    if retrieval:
        (run / "retrieval.json").write_text(json.dumps(retrieval))
    return run, report_neighbours.neighbours_section(load_inputs([run]))


def nearest_by_a_loop(embeddings, row):
    unit = [vector / np.linalg.norm(vector) for vector in embeddings.astype(float)]
    return sorted((p for p in range(len(unit)) if p != row), key=lambda p: -float(unit[row] @ unit[p]))[:7]


def test_beside_a_sample_stand_its_nearest_with_their_pictures(tmp_path):
    dataset = tiny_images(sizes=SIZES)
    run, html = section_of(tmp_path, dataset)
    page = Page(html)
    test = dataset.splits["test"]
    with np.load(run / "test_outputs.npz") as file:
        embeddings = file["embedding"]
    shown = [int(alt.split(":")[0].split()[-1]) for alt, _ in page.images]
    assert len(shown) == 5 * 8
    for start in range(0, len(shown), 8):
        query, *nearest = shown[start : start + 8]
        assert nearest == nearest_by_a_loop(embeddings, query)
        share = np.mean([np.any(test.labels[query] & test.labels[p]) for p in nearest])
        assert f"Test image {query}: {100 * share:.1f} % of its nearest samples share a label with it." in page.captions
    for (alt, pixels), row in zip(page.images, shown, strict=True):
        np.testing.assert_array_equal(pixels, test.inputs[row])
        words = ", ".join(name for name, here in zip(LABEL_NAMES, test.labels[row], strict=True) if here)
        assert alt == f"Test image {row}: {words}"


def frames(html):
    """How often each kind of frame is drawn, legend left out."""
    return {kind: html.count(f'<div class="{kind}">') for kind in ("query", "same", "shared", "nothing")}


def test_frames_tell_the_dominant_label_by_truth_and_else_equal_sets(tmp_path):
    labels = np.tile(np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1]], np.uint8), (12, 1))
    shares = np.tile(np.array([[0.4, 0.6, 0, 0], [1, 0, 0, 0], [0, 0, 0.5, 0.5]], np.float32), (12, 1))
    for truth, legend in ((shares, "same dominant label"), (None, "has the same labels")):
        dataset = tiny_images(sizes=SIZES)
        inputs = dataset.splits["test"].inputs
        splits = dict(dataset.splits) | {"test": Split(inputs, labels, truth)}
        folder = tmp_path / legend
        run, html = section_of(folder, type(dataset)("npz", "image", LABEL_NAMES, splits), method="any")
        assert legend in html
        with np.load(run / "test_outputs.npz") as file:
            embeddings = file["embedding"]
        expected = {"query": 5, "same": 0, "shared": 0, "nothing": 0}
        for query in (int(caption.split(":")[0].split()[-1]) for caption in Page(html).captions):
            for p in nearest_by_a_loop(embeddings, query):
                kinds = {query % 3, p % 3}  # rows repeat: of two labels (the second larger), of one, of two others
                expected["same" if len(kinds) == 1 else "shared" if kinds == {0, 1} else "nothing"] += 1
        assert frames(html) == expected


def test_vectors_are_shown_by_their_labels_alone(tmp_path):
    _, html = section_of(tmp_path, tiny_vectors(sizes=SIZES), phase="finetune", method="bce")
    page = Page(html)
    assert not page.images
    assert sum(frames(html).values()) == 5 * 8
    assert "evaluate --retrieval" in page.text


def test_numbers_of_retrieval_are_shown_where_they_were_measured(tmp_path):
    result = {
        name: {"value": value, "queries": 36}
        for name, value in (("mAP", 0.5), ("ndcg_labels", 0.25), ("dominant", 0.125), ("ndcg_distributions", None))
    }
    judged = {
        "split": "test",
        "gallery": "train",
        "neighbours": 4,
        "representation": "features",
        "truth": False,
        "results": result,
        "control": result | {"mAP": {"value": 0.4, "queries": 36}},
        "one_list": result | {"mAP": {"value": 0.3, "queries": 36}},
    }
    _, html = section_of(tmp_path, tiny_vectors(sizes=SIZES), phase="finetune", method="bce", retrieval=judged)
    page = Page(html)
    assert page.row("retrieval-bce", "mAP@4, shared labels") == ["50.0", "40.0", "30.0", "36"]
    assert page.row("retrieval-bce", "nDCG@4 of true distributions") == ["–", "–", "–", "36"]
    assert "over the samples that have one label" in page.captions[-1]
    assert "evaluate --retrieval" not in page.text
    older = {name: entry for name, entry in judged.items() if name != "one_list"}
    (tmp_path / "run" / "retrieval.json").write_text(json.dumps(older))
    page = Page(report_neighbours.neighbours_section(load_inputs([tmp_path / "run"])))
    assert page.row("retrieval-bce", "mAP@4, shared labels") == ["50.0", "40.0", "–", "36"]
    judged["control"]["mAP"]["value"] = "0.4"
    (tmp_path / "run" / "retrieval.json").write_text(json.dumps(judged))
    with pytest.raises(InputError, match=r"whole files.*'control\.mAP\.value' of retrieval\.json is of another kind"):
        load_inputs([tmp_path / "run"])


def test_too_few_samples_have_no_neighbours(tmp_path):
    sizes = SIZES | {"test": 7}
    assert section_of(tmp_path, tiny_vectors(sizes=sizes), phase="finetune", method="bce")[1] is None
