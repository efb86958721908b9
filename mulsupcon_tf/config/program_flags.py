"""The settings of the programs that train nothing: check, evaluate, embed, export, predict, search, app."""

import dataclasses

from mulsupcon_tf.config.backbones import IMAGE_BACKBONES
from mulsupcon_tf.config.common_flags import READING_OPTIONS, ReadsFiles
from mulsupcon_tf.config.fields import Validated, flag, refuse_without
from mulsupcon_tf.config.flags import PretrainConfig
from mulsupcon_tf.utils.choices import (
    EXPORT_FORMATS,
    PREDICTION_FORMATS,
    QUANTISATIONS,
    REPRESENTATIONS,
    SEARCHED_BY,
    SEARCHED_NEIGHBOURS,
    SPLITS,
)
from mulsupcon_tf.utils.errors import InputError

DEFAULT_SPLIT, DEFAULT_GALLERY = "test", "train"
DEFAULT_THRESHOLD = "validation"
_OF_A_BACKBONE = ("backbone", "backbone_weights", "dataset", *READING_OPTIONS, "image_size", "skip_bad_images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckConfig(PretrainConfig):
    """Settings of `python -m mulsupcon_tf.check`: those of a pretraining, for which it speaks."""

    workdir: str = flag(None, "Not read, but accepted: a flag file may hold it.", path=True)
    timed_steps: int = flag(
        3,
        "Training steps that are timed after a first one; 0: none, and nothing is said of time and memory.",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Validated):
    """Settings of `python -m mulsupcon_tf.evaluate`."""

    workdir: str = flag(
        None, "Run directory of a fine-tuning; with --retrieval of a pretraining too. Required.", path=True
    )
    split: str = flag(DEFAULT_SPLIT, "Split to judge.", choices=SPLITS)
    data_dir: str | None = flag(None, "Folder of the dataset's files, if it has moved since the run.", path=True)
    threshold: str | None = flag(
        None,
        "Without --retrieval: decision thresholds: validation (chosen there, one per metric), per_label (and one per label), a "
        "number, or paper (best on test: optimistic). Default: validation.",
    )
    output: str | None = flag(
        None,
        "Also write all figures, per label too, to this JSON file. Default with --retrieval: WORKDIR/retrieval.json.",
        path=True,
    )
    retrieval: bool = flag(
        False,
        "Judge the embedding instead: what the nearest samples of the gallery have in common with those of --split.",
    )
    gallery: str | None = flag(None, "With --retrieval: split that is searched. Default: train.", choices=SPLITS)
    neighbours: int | None = flag(
        None, f"With --retrieval: nearest samples that are judged (k). Default: {SEARCHED_NEIGHBOURS}.", minimum=1
    )
    representation: str | None = flag(
        None,
        "With --retrieval: embedding (the pretraining's projection z), features (the backbone's r), probabilities (a "
        "fine-tuning's), or raw (the vectors of the dataset, standardised). Default: embedding for a pretraining, else features.",
        choices=REPRESENTATIONS,
    )
    allow_changed_data: bool = flag(False, "Go on although the data have changed since the run; the results note it.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.retrieval:
            refuse_without(self, "--retrieval", "gallery", "neighbours", "representation")
        elif self.threshold is not None:
            raise InputError(f"--threshold does not go with --retrieval. Received: --threshold={self.threshold}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig(ReadsFiles):
    """Settings of `python -m mulsupcon_tf.embed`."""

    workdir: str = flag(None, "Run directory of a pretraining or a fine-tuning. Either this or --backbone.", path=True)
    backbone: str = flag(
        None, "Network that encodes the images of --dataset, without any run.", choices=IMAGE_BACKBONES
    )
    backbone_weights: str = flag(
        None, "With --backbone: its weights, imagenet or a .weights.h5 file. Required then.", path=True
    )
    dataset: str = flag(
        None, "With --backbone: name of the dataset, or its file format, as for a training. Required then."
    )
    label_separator: str | None = flag(None, "With --backbone: as for a training.")
    min_label_count: int | None = flag(None, "With --backbone: as for a training.", minimum=1)
    image_size: int | None = flag(
        None, "With --backbone: side of the images in pixels. Default: as stored; 224 for image files.", minimum=16
    )
    skip_bad_images: bool = flag(False, "With --backbone: leave out image files that cannot be decoded.")
    split: str | None = flag(None, "With --workdir: split to encode. Default: test.", choices=SPLITS)
    data_dir: str | None = flag(
        None, "Folder of the dataset's files; with --workdir, if it has moved since the run.", path=True
    )
    output: str = flag(
        None,
        "NPZ file to write; with --backbone a new folder for one of each split, or that of a call that was interrupted. Required.",
        path=True,
    )
    allow_changed_data: bool = flag(
        False, "With --workdir: go on although the data have changed since the run; the file notes it."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        owner, others = ("workdir", _OF_A_BACKBONE) if self.workdir else ("backbone", ("split", "allow_changed_data"))
        given = next((name for name in others if getattr(self, name)), None) if getattr(self, owner) else None
        if given:
            raise InputError(
                f"--{given} does not go with --{owner}. Received: --{given}={getattr(self, given)} "
                f"--{owner}={getattr(self, owner)}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig(Validated):
    """Settings of `python -m mulsupcon_tf.export`."""

    workdir: str = flag(None, "Run directory of a fine-tuning. Required.", path=True)
    output: str = flag(
        None,
        "Folder to write the model and its card to; must not exist yet. Required. "
        "TensorFlow Serving expects a number as its last part, the version: models/digits/1.",
        path=True,
    )
    format: str = flag(
        "saved_model",
        "saved_model takes encoded images; onnx and litert take decoded pixels. onnx needs the extra of that name.",
        choices=EXPORT_FORMATS,
    )
    quantize: str | None = flag(
        None,
        "litert: store weights in float16, or weights and activations in int8, scaled by samples of validation. The card says what "
        "it costs on test. Default: float32.",
        choices=QUANTISATIONS,
    )
    data_dir: str | None = flag(
        None, "--quantize: folder of the dataset's files, if it has moved since the run.", path=True
    )
    allow_changed_data: bool = flag(
        False, "--quantize: go on although the data have changed since the run; the card notes it."
    )
    max_image_pixels: int | None = flag(
        None,
        "saved_model: most pixels of an image that the model decodes, height times width. Default: that of the run.",
        minimum=1,
    )
    gallery: str | None = flag(
        None,
        "saved_model: also write an index of these photos or rows, gallery.npz, in which `search --saved_model` looks: a folder, a "
        "pattern, or a table, as for `search`.",
        path=True,
    )
    by: str | None = flag(
        None,
        "--gallery: what is compared, probabilities or features. Default: probabilities, of one label features.",
        choices=SEARCHED_BY,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gallery and self.format != "saved_model":
            raise InputError(f"--gallery belongs to --format=saved_model. Received: --format={self.format}")
        if not self.gallery:
            refuse_without(self, "--gallery", "by")
        if not self.quantize:
            refuse_without(self, "--quantize", "data_dir", "allow_changed_data")
        if self.format != "saved_model":
            refuse_without(self, "--format=saved_model", "max_image_pixels")
        if self.quantize and self.format != "litert":
            raise InputError(
                f"--quantize belongs to --format=litert. Received: --quantize={self.quantize} --format={self.format}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig(Validated):
    """Settings of `python -m mulsupcon_tf.predict`."""

    saved_model: str = flag(None, "Folder of a SavedModel that `export` wrote. Either this or --workdir.", path=True)
    workdir: str = flag(None, "Run directory of a fine-tuning, whose model is taken.", path=True)
    format: str = flag(
        "jsonl", "jsonl: a JSON object a line; csv: a table with a column a label.", choices=PREDICTION_FORMATS
    )
    top_k: int | None = flag(None, "Only the probabilities of the K most probable labels. Default: of all.", minimum=1)
    batch_size: int = flag(64, "Files or rows per call of the model.", minimum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GalleryConfig(Validated):
    """What `search` and `app` have in common."""

    workdir: str = flag(None, "Run directory whose model is taken. Either this or --saved_model.", path=True)
    saved_model: str = flag(None, "Folder of a SavedModel that `export` wrote.", path=True)
    gallery: str = flag(
        None,
        "What is searched: a folder, a pattern, or a table with a column `file`; of vectors .npy or .csv files.",
        path=True,
    )
    index: str | None = flag(
        None,
        "NPZ file that keeps what stands for the gallery; alone, without --gallery, it is searched as it is. "
        "Default: one in mulsupcon_tf/search in ~/.cache.",
        path=True,
    )
    by: str | None = flag(
        None,
        "What is compared: embedding (a pretraining's projection z), features (the backbone's r), probabilities (a "
        "classifier's of several labels). Default: embedding for a pretraining, else probabilities, or features of one label.",
        choices=SEARCHED_BY,
    )
    drop_missing: bool = flag(
        False,
        "Drop from the index what is no longer in --gallery, be it most of it or a whole folder, which is refused otherwise: a disk "
        "may not be mounted.",
    )
    neighbours: int = flag(SEARCHED_NEIGHBOURS, "How many of the nearest are given (k).", minimum=1)
    batch_size: int = flag(64, "Files or rows per call of the model.", minimum=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gallery is None:
            refuse_without(self, "--gallery", "drop_missing")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig(GalleryConfig):
    """Settings of `python -m mulsupcon_tf.search`."""

    sheet: str | None = flag(None, "Also write an HTML page with the pictures to this file.", path=True)
    data_dir: str | None = flag(
        None, "--workdir of a pretraining: folder of its data, if it has moved since the run.", path=True
    )
    allow_changed_data: bool = flag(
        False, "--workdir of a pretraining: go on although its data, by which its model is built, have changed since."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sheet and not self.sheet.lower().endswith((".html", ".htm")):
            raise InputError(  # a photo that was to be searched for would be written over
                f"--sheet must be the HTML page to write, with an ending that says so. Received: --sheet={self.sheet}"
            )
        if self.saved_model:
            refuse_without(self, "--workdir", "data_dir", "allow_changed_data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppConfig(GalleryConfig):
    """Settings of `python -m mulsupcon_tf.app`."""

    host: str = flag(
        "127.0.0.1", "Address to listen at: this machine alone; 0.0.0.0 opens the page to everyone who can reach it."
    )
    port: int = flag(7860, "Port of the page.", minimum=1, maximum=65535)
