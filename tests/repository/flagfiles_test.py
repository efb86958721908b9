"""The flagfiles of `flags/`: each is read by absl into its config, and says how it is used and what to expect."""

import dataclasses
import pathlib
import re

import pytest
from absl import flags

from mulsupcon_tf.config.command_line import define_flags
from mulsupcon_tf.config.defaults import resolve_finetuning, resolve_pretraining, with_start_of_photos
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.registry import dataset_kind

REPOSITORY = pathlib.Path(__file__).parents[2]
FILES = sorted((REPOSITORY / "flags").glob("*.flags"))
CONFIGS = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}
# Of the paper: batch and queue of each dataset, and the lowest rates of both phases over their peaks (1e-5 / 4e-5, 1e-4 / 4e-4).
PAPER = {
    "scene": (256, 1024),
    "yeast": (128, 256),
    "delicious": (128, 4096),
    "bookmarks": (256, 8192),
    "mediamill": (512, 8192),
    "coco": (128, 4096),
    "nuswide": (128, 4096),
    "nuswide21": (128, 4096),
    "mirflickr": (128, 8192),
    "voc2007": (128, 1024),
    "voc2012": (128, 1024),
}
MASKS = {"delicious": 0.2, "mediamill": 0.0}
# Samples of one kind as the loaders give them, and what the smallest training split of a named dataset holds.
SHAPES = {"image": (None, None, 3), "vector": (103,)}
SMALLEST_TRAIN = 900
OPTIONAL = {
    "data_dir",
    "label_separator",
    "min_label_count",
    "workdir",
    "init_from",
    "pretrained",
    "backbone_weights",
    "feature_cache",
    "unfreeze_from",
    "image_size",
    "steps_per_execution",
    "max_steps",
    "logical_devices",
    "label_fraction",
    "validation_fraction",
    "patience",
    "mask_rate",
}

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def phase_of(path):
    return path.stem.rpartition("_")[2]


def header_of(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("#")]


def text_of_header(path):
    return " ".join(line.removeprefix("# ") for line in header_of(path))


def parse(path, arguments=()):
    config_class = CONFIGS[phase_of(path)]
    values = flags.FlagValues()
    define_flags(config_class, flag_values=values)
    rest = values(["program", f"--flagfile={path}", *arguments])
    assert rest == ["program"]
    return config_class(**{field.name: values[field.name].value for field in dataclasses.fields(config_class)})


def resolved(path, *, installed=False):
    """The settings of a file; of those for own photos with or without ImageNet weights."""
    config = parse(path)
    shape = (48, 48, 1) if config.dataset == "digits" else SHAPES[dataset_kind(config.dataset)]
    if isinstance(config, PretrainConfig):
        config = with_start_of_photos(config, installed=installed)
        return resolve_pretraining(config, input_shape=shape, num_train=SMALLEST_TRAIN)
    # The phase before is named on the command line; from it come network and image size.
    config = dataclasses.replace(config, pretrained="runs/before")
    return resolve_finetuning(config, input_shape=shape)


def test_every_dataset_of_the_paper_the_demo_and_own_photos_have_both_phases():
    names = {path.stem for path in FILES}
    assert {f"{dataset}_{phase}" for dataset in (*PAPER, "digits", "csv") for phase in CONFIGS} <= names
    assert {path.suffix for path in FILES} == {".flags"}
    for name in names:
        partner = "finetune" if name.endswith("_pretrain") else "pretrain"
        assert f"{name.rpartition('_')[0]}_{partner}" in names


@every_file
def test_absl_reads_it_into_a_config_of_the_dataset_it_is_named_after(path):
    assert phase_of(path) in CONFIGS
    assert path.stem.startswith(f"{parse(path).dataset}_")


@every_file
def test_no_setting_is_given_twice(path):
    names = re.findall(r"^--(\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(names) == len(set(names))


@every_file
def test_its_first_line_is_the_command_that_uses_it(path):
    binary, *arguments = header_of(path)[0].removeprefix("# python -m mulsupcon_tf.").split()
    assert binary == phase_of(path)
    assert arguments[0] == f"--flagfile={path.relative_to(REPOSITORY)}"
    config = parse(path, arguments[1:])
    needs_files = config.dataset != "digits"
    assert (config.data_dir is not None) == needs_files
    assert config.workdir.startswith("runs/")
    if binary == "finetune":
        before = header_of(path.with_name(path.name.replace("_finetune", "_pretrain")))[0]
        assert before.endswith(f"--workdir={config.pretrained}")


@every_file
def test_the_papers_protocol_is_had_by_what_its_header_says(path):
    said = "--validation_fraction=0" in text_of_header(path)
    assert said == (path.stem.rpartition("_")[0] in {*PAPER, "voc2012"})
    if said:
        assert parse(path, ["--validation_fraction=0"]).validation_fraction == 0


@every_file
def test_its_header_tells_time_hardware_and_source(path):
    header = text_of_header(path)
    assert re.search(r"Takes (at most )?about \d+ (second|minute|hour)", header)
    assert re.search(r"on (2 CPU cores|one NVIDIA A100 with 16 CPU cores)", header)
    assert "Source: " in header
    assert "Score: " in header
    assert max(len(line) for line in header_of(path)) <= 160


@every_file
def test_an_estimated_time_is_images_times_epochs_by_rate(path):
    header = text_of_header(path)
    if "An estimate" not in header:
        return
    images, epochs, rate = re.search(
        r"([\d,]+)(?: images)?(?: \([^)]*\))? x (\d+) epochs at ([\d,/]+)", header
    ).groups()
    assert int(epochs) == resolved(path).epochs
    if "/" in rate:  # 4/3 of the rate of the phase before
        before = text_of_header(path.with_name(path.name.replace("_finetune", "_pretrain")))
        speed = int(re.search(r"epochs at (\d+) ", before)[1]) * 4 / 3
    else:
        speed = int(rate.replace(",", ""))
    minutes = int(images.replace(",", "")) * int(epochs) / speed / 60
    stated = re.search(r"about (?:(\d+) hours?)? ?(?:(\d+) minutes)?", header).groups()
    stated_minutes = 60 * int(stated[0] or 0) + int(stated[1] or 0)
    assert 0.95 * minutes < stated_minutes < 1.35 * minutes + 2


@every_file
def test_with_the_defaults_it_is_complete(path):
    config = resolved(path)
    from_the_phase_before = {"backbone"} if isinstance(config, FinetuneConfig) else set()
    missing = {field.name for field in dataclasses.fields(config) if getattr(config, field.name) is None}
    assert missing <= OPTIONAL | from_the_phase_before


@every_file
@pytest.mark.parametrize("installed", [False, True])
def test_its_sizes_fit_each_other(path, installed):
    config = resolved(path, installed=installed)
    kind = dataset_kind(config.dataset)
    assert config.warmup_epochs < config.epochs
    assert (config.augmentation == "mask") == (kind == "vector" or config.freeze_backbone)
    assert not (config.cache and kind == "vector")
    if isinstance(config, PretrainConfig):
        assert config.batch_size <= config.queue_size
        assert config.batch_size % config.gradient_accumulation_steps == 0
        assert config.monitor_every < config.epochs
        assert (config.backbone == "mlp") == (kind == "vector")


@pytest.mark.parametrize("dataset", PAPER)
def test_the_papers_settings_are_those_of_the_paper(dataset):
    config = resolved(REPOSITORY / "flags" / f"{dataset}_pretrain.flags")
    assert (config.epochs, config.momentum, config.temperature, config.rbf_sigma) == (400, 0.999, 0.1, 0.01)
    assert (config.batch_size, config.queue_size) == PAPER[dataset]
    assert (config.learning_rate, config.weight_decay, config.optimizer) == (4e-5, 1e-4, "adamw")
    assert (config.schedule, config.restart_epochs, config.restart_factor) == ("restarts", 50, 2)
    assert config.learning_rate * config.final_learning_rate_scale == pytest.approx(1e-5)
    tuned = resolved(REPOSITORY / "flags" / f"{dataset}_finetune.flags")
    assert (tuned.epochs, tuned.batch_size, tuned.schedule, tuned.restart_factor) == (
        100,
        PAPER[dataset][0],
        "restarts",
        2,
    )
    peak, lowest, decay = (4e-3, 1e-3, 1e-4) if dataset == "mediamill" else (4e-4, 1e-4, 1e-5)
    assert (tuned.learning_rate, tuned.weight_decay, tuned.backbone_learning_rate_scale) == (peak, decay, 1)
    assert tuned.learning_rate * tuned.final_learning_rate_scale == pytest.approx(lowest)
    assert tuned.restart_epochs == (50 if dataset in ("yeast", "delicious", "mediamill") else 25)
    if dataset_kind(dataset) == "vector":
        assert (config.mask_rate, tuned.mask_rate) == (0.5, MASKS.get(dataset, 0.4))
    else:
        assert (config.backbone, config.image_size, config.augmentation) == ("resnet50", 224, "simclr")
