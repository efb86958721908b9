import pathlib

from mulsupcon_tf.datasets.registry import dataset_names
from mulsupcon_tf.utils.choices import AUGMENTATIONS

PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")


def test_the_page_on_datasets_knows_every_augmentation_and_every_dataset_that_is_no_benchmark_of_mulan():
    words = set(PAGE.replace("`", " ").replace(",", " ").replace(":", " ").split())
    assert set(AUGMENTATIONS) <= words
    mulan = set(dataset_names()[dataset_names().index("scene") : dataset_names().index("coco")])
    assert set(dataset_names()) - mulan <= words
