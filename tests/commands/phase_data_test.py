import numpy as np
import pytest

from mulsupcon_tf.commands.phase_data import read_dataset, trained_on, with_train_of, without_bad_images
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.run_directory import RunDirectory
from tests.helpers.image_folders import write_jpeg


@pytest.mark.parametrize("validation", [{}, {"validation_fraction": 0.0}])
def test_both_phases_train_on_the_same_share_of_the_images_that_can_be_read(tmp_path, validation):
    rows = ["file,labels", *(f"{number}.jpg,{'sea' if number % 3 else 'beach;sky'}" for number in range(60))]
    for number in range(60):
        write_jpeg(tmp_path / "photos" / f"{number}.jpg", number)
    (tmp_path / "photos" / "labels.csv").write_text("\n".join([*rows, ""]))
    settings = {"dataset": "csv", "data_dir": str(tmp_path / "photos"), "seed": 3, "skip_bad_images": True}
    whole = read_dataset(PretrainConfig(**settings))
    broken = [whole.splits[name].inputs.paths[4] for name in ("train", "validation", "test")]
    for path in broken:
        with open(path, "wb") as file:  # noqa: PTH123 paths are text here
            file.write(b"\xff\xd8\xff, and nothing more")
    seen = []
    for kind in (PretrainConfig, FinetuneConfig):
        config = kind(**settings, **validation, label_fraction=0.5, workdir=str(tmp_path / kind.__name__))
        with RunDirectory(config.workdir) as run:
            readable = without_bad_images(config, run, with_train_of(config, read_dataset(config)), Devices())
            dataset = trained_on(config, readable)
            # A split is looked at whole, whatever share of train is trained on.
            listed = {line.split("\t")[0] for line in run.bad_images.read_text().splitlines()}
        assert listed == {path.rpartition("/")[2] for path in broken}
        assert len(dataset.splits["train"]) == round(0.5 * len(readable.splits["train"]))
        seen.append(dataset.splits["train"])
    assert seen[0].inputs.paths.tolist() == seen[1].inputs.paths.tolist()
    np.testing.assert_array_equal(seen[0].labels, seen[1].labels)
    assert not set(broken) & set(seen[0].inputs.paths)
