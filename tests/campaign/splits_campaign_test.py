"""Samples that are added, left out or put in another order: every other one keeps its split and its labels."""

import csv
import json
import random

import numpy as np
import pytest

from mulsupcon_tf.datasets.registry import load_dataset
from tests.campaign.inputs import SCALES, campaign, reading_of

LABELS = ("sea", "beach", "sky")


def write_csv(folder, samples, labels_of):
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["file", "labels"], *([f"{sample}.jpg", ";".join(labels_of[sample])] for sample in samples)]
        )


def write_npz(folder, samples, labels_of):
    features = np.array([vector(sample) for sample in samples], np.float64)
    np.savez(folder / "train.npz", features=features, labels=table(samples, labels_of), label_names=LABELS)
    np.savez(folder / "test.npz", features=features[:1] + 1000, labels=np.ones((1, len(LABELS))))


def write_arff(folder, samples, labels_of):
    attributes = [f"@attribute x{column} numeric" for column in range(3)] + [
        f"@attribute {label} {{0,1}}" for label in LABELS
    ]
    rows = [
        ",".join(map(str, [*vector(sample), *own]))
        for sample, own in zip(samples, table(samples, labels_of).tolist(), strict=True)
    ]
    (folder / "t.arff").write_text("\n".join(["@relation t", *attributes, "@data", *rows, ""]))
    (folder / "t.xml").write_text(f"<labels>{''.join(f'<label name={label!r}/>' for label in LABELS)}</labels>")


def write_coco(folder, samples, labels_of):
    categories = [{"id": number, "name": label} for number, label in enumerate(LABELS)]
    images = [{"id": number, "file_name": f"{sample}.jpg"} for number, sample in enumerate(samples)]
    annotations = [
        {"image_id": number, "category_id": LABELS.index(label), "area": 1}
        for number, sample in enumerate(samples)
        for label in labels_of[sample]
    ]
    for part in ("train", "val"):
        own = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(own))


def vector(sample: int) -> list[float]:
    return np.random.default_rng(sample).normal(size=3).round(3).tolist()


def table(samples, labels_of):
    return np.array([[int(label in labels_of[sample]) for label in LABELS] for sample in samples])


def splits_of(dataset):
    """Maps each sample to its split and labels; samples of a file of test, which none is drawn from, are left out."""
    found = {}
    for part, split in dataset.splits.items():
        if part == "test" and dataset.name in ("coco", "npz"):
            continue
        keys = split.inputs.names if dataset.on_disk else [row.tobytes() for row in split.inputs]
        for key, row in zip(keys, split.labels.tolist(), strict=True):
            found[key] = part, row
    return found


WRITERS = {"csv": write_csv, "npz": write_npz, "arff": write_arff, "coco": write_coco}


@pytest.mark.parametrize("times", SCALES)
@pytest.mark.parametrize("kind", WRITERS)
def test_no_sample_moves_with_others(tmp_path, kind, times):
    for images in (tmp_path, tmp_path / "train2017", tmp_path / "val2017", tmp_path / "annotations"):
        images.mkdir(exist_ok=True)
        for number in range(140):
            (images / f"{number}.jpg").touch()

    def attempt(random_: random.Random):
        labels_of = {sample: random_.sample(LABELS, random_.randint(1, 3)) for sample in range(140)}
        labels_of[0] = list(LABELS)
        before = [0, *random_.sample(range(1, 140), random_.randint(70, 110))]
        kept = random_.sample(before[1:], random_.randint(50, len(before) - 1))
        new = random_.sample(sorted(set(range(140)) - set(before)), random_.randint(0, 20))
        after = [0, *kept, *new]
        random_.shuffle(after)
        found = []
        for samples in (before, after):
            WRITERS[kind](tmp_path, samples, labels_of)
            dataset, refusal = reading_of(lambda: load_dataset(kind, tmp_path))
            assert refusal is None, refusal
            found.append(splits_of(dataset))
            assert len(found[-1]) == len(samples)
        common = found[0].keys() & found[1].keys()
        assert len(common) == len(kept) + 1
        assert {key: found[0][key] for key in common} == {key: found[1][key] for key in common}

    campaign(f"moved {kind}", 15 * times, attempt)
