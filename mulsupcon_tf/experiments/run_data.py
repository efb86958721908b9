"""The data of an experiment's runs, read once for all of them."""

import functools

from mulsupcon_tf.config.common_flags import TrainingConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.experiments.plan import Run
from mulsupcon_tf.training.run_directory import RunDirectory


class RunData:
    """Reads data, the same files once. It keeps what it has read, so that it should not outlive one look at the runs."""

    def __init__(self) -> None:
        self._load = functools.cache(load_dataset)
        self._seen: dict[tuple[int, bytes], MultiLabelDataset] = {}

    def stored(self, config: TrainingConfig) -> MultiLabelDataset:
        """The data as they are stored: of these a run keeps the fingerprint.

        Args:
            config: settings of a training.
        """
        return self._load(config.dataset, config.data_dir, **config.reading_options)

    def seen_by(self, run: Run) -> MultiLabelDataset:
        """The data without the images that a training left out as unreadable; one object for the same samples.

        Args:
            run: the training, which is finished.

        Raises:
            InputError: see `without_unreadable`.
        """
        config = run.settings()
        dataset, listing = self.stored(config), RunDirectory(run.directory).bad_images
        if not listing.exists():
            return dataset
        from mulsupcon_tf.input_pipeline.image_files import without_unreadable  # imports TensorFlow

        key = (id(dataset), listing.read_bytes())
        if key not in self._seen:
            self._seen[key] = without_unreadable(dataset, listing, data_dir=config.data_dir, scan=False)
        return self._seen[key]
