import pytest

from mulsupcon_tf.config.common_flags import (
    image_size_of,
    number_of,
    parse_checkpoint_interval,
    reading_options_of,
    require_frozen_backbone,
)
from mulsupcon_tf.config.fields import as_flag_lines, from_flag_values
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import CheckConfig
from mulsupcon_tf.utils.errors import InputError
from mulsupcon_tf.utils.image_limits import MAX_IMAGE_PIXELS


def test_how_files_are_read_is_remembered_in_the_flags_of_a_run():
    config = FinetuneConfig(label_separator="|", min_label_count=3)
    flags = dict(line.removeprefix("--").split("=", 1) for line in as_flag_lines(config))
    assert reading_options_of(flags) == config.reading_options == {"label_separator": "|", "min_label_count": 3}
    assert reading_options_of({}) == PretrainConfig().reading_options
    with pytest.raises(InputError, match="--min_label_count must be at least 1"):
        reading_options_of({"min_label_count": "0"})


def test_checkpoint_intervals():
    assert parse_checkpoint_interval("10s") == (10.0, "seconds")
    assert parse_checkpoint_interval("5m") == (300.0, "seconds")
    assert parse_checkpoint_interval("2e") == (2.0, "epochs")
    assert parse_checkpoint_interval("500") == (500.0, "steps")
    for text in ("", "0", "0s", "s", "-5s", "1.5m", "2h", "10s "):
        with pytest.raises(InputError):
            parse_checkpoint_interval(text)


@pytest.mark.parametrize(("max_steps", "expected"), [(None, 15), (7, 7), (99, 15)])
def test_a_run_has_the_steps_of_its_epochs_or_fewer(max_steps, expected):
    assert PretrainConfig(epochs=3, max_steps=max_steps).total_steps(5) == expected


def test_numbers_of_a_run_are_those_that_it_wrote_or_the_defaults():
    assert image_size_of({"image_size": "48"}) == 48
    assert image_size_of({"workdir": "runs/vectors"}) is None
    assert number_of({"max_image_pixels": "100"}, "max_image_pixels") == 100
    assert number_of({}, "max_image_pixels") == MAX_IMAGE_PIXELS
    with pytest.raises(InputError, match=r"--image_size must be a value of type int\. Received: --image_size=big"):
        image_size_of({"image_size": "big"})


def test_a_frozen_backbone_is_named_with_its_weights_and_an_mlp_is_trained_on_its_features():
    frozen = PretrainConfig(backbone="resnet50", backbone_weights="imagenet", freeze_backbone=True)
    require_frozen_backbone(frozen)
    assert frozen.trained_network == ("mlp", None)
    assert PretrainConfig(backbone="resnet50", backbone_weights="imagenet").trained_network == ("resnet50", "imagenet")
    further = PretrainConfig(backbone="resnet50", backbone_weights="imagenet", init_from="run")
    assert further.trained_network == ("resnet50", None)
    for missing in ({"backbone": "resnet50"}, {"backbone_weights": "imagenet"}):
        with pytest.raises(
            InputError, match=r"--freeze_backbone needs --backbone and --backbone_weights. Received: --b"
        ):
            require_frozen_backbone(PretrainConfig(freeze_backbone=True, **missing))
    require_frozen_backbone(PretrainConfig())


@pytest.mark.parametrize("config_class", [PretrainConfig, FinetuneConfig, CheckConfig])
def test_a_folder_without_a_dataset_is_not_passed_over_for_digits(config_class, tmp_path):
    with pytest.raises(InputError) as raised:
        config_class(data_dir=str(tmp_path))
    assert str(raised.value) == (
        "--data_dir belongs to a dataset that is read from files; --dataset says which (csv for a table of photos). "
        f"Received: --data_dir={tmp_path} without --dataset, which is then digits, embedded"
    )
    assert config_class().dataset == config_class(data_dir="").dataset == "digits"
    # An experiment on several datasets gives its folder to all, and runs have recorded that.
    named = config_class(dataset="digits", data_dir=str(tmp_path))
    assert from_flag_values(config_class, dict(line[2:].split("=", 1) for line in as_flag_lines(named))) == named
