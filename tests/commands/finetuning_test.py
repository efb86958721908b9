import dataclasses
import io
import json
import logging
import shlex
import shutil

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from sklearn.metrics import average_precision_score, f1_score

from mulsupcon_tf.commands.evaluating import evaluate_run
from mulsupcon_tf.commands.exporting import export_run
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.finished_run import dataset_of_run
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EvaluateConfig, ExportConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.datasets.splitting import stratified_share
from mulsupcon_tf.evaluation.results import METRIC_NAMES
from mulsupcon_tf.evaluation.thresholds import PAPER_THRESHOLD_GRID, choose_thresholds
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.serving.saved_model import load_saved_model
from mulsupcon_tf.training.run_directory import RunDirectory, read_flags
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.binaries import contents
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_images, tiny_vectors, write_npz

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")

EPOCHS, PATIENCE = 30, 3


def config(data, workdir, **settings):
    defaults = {"epochs": EPOCHS, "batch_size": 16, "learning_rate": 0.01, "checkpoint_every": "1e"}
    return FinetuneConfig(dataset="npz", data_dir=str(data), workdir=str(workdir), **defaults | settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("finetuning")


@pytest.fixture(scope="module")
def data(folder):
    return write_npz(tiny_vectors(), folder / "vectors")


@pytest.fixture(scope="module")
def dataset(data):
    return load_dataset("npz", data_dir=str(data))


@pytest.fixture(scope="module")
def pretrained(folder, data):
    settings = {"epochs": 1, "batch_size": 16, "method": "mulsupcon"}
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), workdir=str(folder / "pretrained"), **settings))
    return folder / "pretrained"


@pytest.fixture(scope="module")
def said():
    """What `tuned` has said on the screen: records of logging."""
    return []


@pytest.fixture(scope="module")
def tuned(folder, data, pretrained, said):
    """Steps so large that validation loss soon rises again."""
    settings = config(data, folder / "tuned", pretrained=str(pretrained), patience=PATIENCE)
    logger, screen = logging.getLogger("mulsupcon_tf"), logging.Handler()
    before, screen.emit = logger.level, said.append
    logger.addHandler(screen)
    logger.setLevel(logging.INFO)
    try:
        return folder / "tuned", finetune(settings)
    finally:
        logger.removeHandler(screen)
        logger.setLevel(before)


@pytest.fixture(scope="module")
def probe(folder, data, pretrained):
    settings = {"pretrained": str(pretrained), "linear_probe": True, "epochs": 2, "threshold": "0.5"}
    return folder / "probe", finetune(config(data, folder / "probe", **settings))


@pytest.fixture(scope="module")
def scratch(folder, data):
    """Binary cross-entropy only, judged as MulSupCon did."""
    return folder / "scratch", finetune(config(data, folder / "scratch", epochs=2, threshold="paper"))


def write_photos(folder, large=()):
    """Twenty photos of 20 x 24 pixels with a column `split`; those named in `large` have a row of pixels more."""
    folder.mkdir()
    rows = ["file,labels,split"]
    for number in range(20):
        shade = np.full((20 + (number in large), 24, 3), 12 * number, np.uint8)
        PIL.Image.fromarray(shade).save(folder / f"{number}.png")
        split = "train" if number < 12 else "validation" if number < 16 else "test"
        rows.append(f"{number}.png,{'dark' if number % 2 else 'dark;light'},{split}")
    (folder / "labels.csv").write_text("\n".join([*rows, ""]))
    return str(folder)


def blank(height, width):
    """The bytes of a photo."""
    stream = io.BytesIO()
    PIL.Image.new("RGB", (width, height)).save(stream, "png")
    return stream.getvalue()


@pytest.mark.slow
def test_the_limit_of_pixels_holds_in_training_judgement_and_export(tmp_path):
    """480 pixels are allowed, 504 are not."""
    run = tmp_path / "run"
    finetune(
        FinetuneConfig(
            dataset="csv",
            data_dir=write_photos(tmp_path / "photos", large=(3, 17)),
            workdir=str(run),
            image_size=16,
            backbone="resnet8",
            epochs=1,
            batch_size=4,
            max_image_pixels=480,
            skip_bad_images=True,
        )
    )
    assert (run / "bad_images.txt").read_text().splitlines() == [
        f"{number}.png\tan image must have at most 480 pixels (--max_image_pixels), not 504" for number in (3, 17)
    ]
    read, _ = dataset_of_run(RunDirectory(run), read_flags(run / "flags.txt"), str(tmp_path / "photos"))
    assert {name: (len(split), split.inputs.max_pixels) for name, split in read.splits.items()} == {
        "train": (11, 480),
        "validation": (4, 480),
        "test": (3, 480),
    }
    export_run(ExportConfig(workdir=str(run), output=str(tmp_path / "raised"), max_image_pixels=504))
    for folder, height in ((run / "saved_model", 20), (tmp_path / "raised", 21)):
        serve = load_saved_model(folder).signatures["serving_default"]
        assert len(serve(image_bytes=tf.constant([blank(height, 24), blank(3, 3)]))["probabilities"]) == 2
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"at most {24 * height} pixels"):
            serve(image_bytes=tf.constant([blank(height + 1, 24)]))


def epochs_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def probabilities_of(run, split):
    """Recomputed from model.keras, temperature and sigmoid by NumPy."""
    model = keras.models.load_model(run / "model.keras", compile=False)
    logits = model.predict(split.inputs, verbose=0).astype(np.float64)
    calibration = RunDirectory(run).read_summary().get("calibration", {"temperature": 1, "offset": 0})
    assert calibration["offset"] == 0  # of binary cross-entropy
    return 1 / (1 + np.exp(-logits / calibration["temperature"]))


def pretrained_weights(pretrained, dataset):
    backbone = build_backbone("mlp", (10,), train_features=dataset.train_features)
    backbone.load_weights(pretrained / "encoder.weights.h5")
    return backbone.get_weights()


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_split_without_any_label_is_refused_before_the_first_step(name, tmp_path):
    whole = tiny_vectors()
    split = whole.splits[name]
    splits = whole.splits | {name: dataclasses.replace(split, labels=np.zeros_like(split.labels))}
    data = write_npz(dataclasses.replace(whole, splits=splits), tmp_path / "data")
    with pytest.raises(InputError, match=rf"Received: 24 samples without any in {name} of dataset 'npz'"):
        finetune(config(data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_augmentation_of_other_samples_is_refused_before_the_folder_is_taken(data, tmp_path):
    with pytest.raises(InputError, match="Received: --augmentation=simclr for vectors"):
        finetune(config(data, tmp_path / "run", augmentation="simclr"))
    assert not (tmp_path / "run").exists()


def test_a_run_leaves_these_files_and_no_others(tuned):
    run, summary = tuned
    steps = [f"checkpoints/step-{epoch * 4:010d}.npz" for epoch in (summary["epochs"] - 1, summary["epochs"])]
    files = {str(path) for path in contents(run) if "events.out.tfevents." not in path.name}
    assert files == {
        ".lock",
        "flags.txt",
        "metrics.jsonl",
        "summary.json",
        "model.keras",
        "test_outputs.npz",
        *steps,
        "saved_model/saved_model.pb",
        "saved_model/fingerprint.pb",
        "saved_model/variables/variables.index",
        "saved_model/variables/variables.data-00000-of-00001",
        "tensorboard/embeddings.tsv",
        "tensorboard/labels.tsv",
        "tensorboard/projector_config.pbtxt",
    }


def test_the_summary_says_what_was_run_and_how_it_was_judged(tuned, probe, scratch):
    run, summary = tuned
    assert json.loads((run / "summary.json").read_text()) == summary
    assert (summary["phase"], summary["dataset"], summary["seed"]) == ("finetune", "npz", 0)
    assert summary["label_names"] == list(LABEL_NAMES)
    assert [kind[1]["method"] for kind in (tuned, probe, scratch)] == ["mulsupcon", "mulsupcon", "bce"]
    assert [kind[1]["threshold_policy"] for kind in (tuned, probe, scratch)] == ["validation", "0.5", "paper"]
    assert [kind[1]["optimistic"] for kind in (tuned, probe, scratch)] == [False, False, True]
    for split in ("val", "test"):
        assert tuple(summary[split]) == METRIC_NAMES


def test_the_summary_says_of_which_encoder_it_is(tuned, pretrained, scratch):
    encoder = json.loads((pretrained / "summary.json").read_text())["encoder_sha256"]
    assert tuned[1]["pretrained_sha256"] == encoder
    assert "pretrained_sha256" not in scratch[1]


def test_the_epoch_with_the_best_validation_map_is_kept_and_training_stops_after_patience(tuned, dataset, said):
    run, summary = tuned
    scores = [record["val_mAP"] for record in epochs_of(run)]
    best = int(np.argmax(scores))
    assert (summary["best_epoch"], summary["selected_by"]) == (best + 1, "mAP")
    assert summary["epochs"] == len(scores) == best + 1 + PATIENCE < EPOCHS
    validation = dataset.splits["validation"]
    found = average_precision_score(validation.labels, probabilities_of(run, validation), average="macro")
    assert found == pytest.approx(scores[best], abs=1e-4)
    assert [record.getMessage() for record in said][-3:] == [
        f"stopped after epoch {len(scores)}: none was better for --patience={PATIENCE}",
        f"kept the weights of epoch {best + 1} of {len(scores)}, the best validation mAP",
        f"next: python -m mulsupcon_tf.evaluate --workdir={run}",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"validation_fraction": 0.0}, marks=pytest.mark.slow),
        {"validation_fraction": 0.0, "threshold": "0.3"},
        {"threshold": "per_label"},
    ],
    ids=lambda settings: "_".join(map(str, settings.values())) or "default",
)
def test_the_command_that_comes_next_judges_the_run_as_it_was_judged(settings, folder, data, caplog):
    run = folder / f"what's next {len(settings)} {settings.get('threshold')}"
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        summary = finetune(config(data, run, max_steps=2, epochs=1, **settings))
    (line,) = [message for message in caplog.messages if message.startswith("next: ")]
    words = shlex.split(line)
    assert words[:4] == ["next:", "python", "-m", "mulsupcon_tf.evaluate"]
    results = evaluate_run(EvaluateConfig(**dict(word.removeprefix("--").split("=", 1) for word in words[4:])))
    for part in ("test", "thresholds", "threshold_policy"):
        assert results[part] == summary[part]


def test_the_lowest_validation_loss_or_the_last_epoch_can_be_kept(folder, data, dataset):
    validation = dataset.splits["validation"]

    def kept(**settings):
        run = folder / "_".join(map(str, settings.values()))
        return run, finetune(config(data, run, epochs=8, learning_rate=0.03, calibration="none", **settings))

    run, summary = kept(select_by="loss")
    losses = [record["val_loss"] for record in epochs_of(run)]
    assert summary["best_epoch"] == np.argmin(losses) + 1 and summary["epochs"] == 8
    probabilities = probabilities_of(run, validation)
    cross_entropy = -np.where(validation.labels, np.log(probabilities), np.log1p(-probabilities)).mean()
    assert cross_entropy == pytest.approx(min(losses), rel=1e-4)
    run, summary = kept(select_by="last")
    assert summary["best_epoch"] == 8 and "val_loss" not in epochs_of(run)[-1]


def weights_of_steps(run):
    """The weights after every step of a run with a checkpoint of each."""
    steps = []
    for path in sorted((run / "checkpoints").iterdir()):
        with np.load(path) as archive:
            steps.append([archive[name] for name in sorted(archive.files) if name.startswith("model/")])
    return steps


def test_an_average_of_the_weights_is_validated_kept_and_continued_after_a_stop(folder, data, dataset):
    settings = {"epochs": 2, "batch_size": 32, "checkpoint_every": "1", "checkpoints_kept": 99, "calibration": "none"}
    run, again = folder / "averaged", folder / "averaged_again"
    summary = finetune(config(data, run, ema_momentum=0.6, **settings))
    stored = weights_of_steps(run)
    averages, last = [], None
    for weights in stored:
        last = [0.6 * a + 0.4 * w for a, w in zip(last or weights, weights, strict=True)]
        averages.append(last)
    kept = averages[len(stored) // 2 * summary["best_epoch"] - 1]
    model = keras.models.load_model(run / "model.keras", compile=False)
    head = [np.asarray(model.head.kernel), np.asarray(model.head.bias)]
    for found in head:
        assert min(np.abs(found - each).max() for each in kept if each.shape == found.shape) < 1e-6
    validation = dataset.splits["validation"]
    found = average_precision_score(validation.labels, probabilities_of(run, validation), average="macro")
    assert found == pytest.approx(epochs_of(run)[summary["best_epoch"] - 1]["val_mAP"], abs=1e-4)
    shutil.copytree(run, again)
    for name in ("summary.json", "model.keras", "test_outputs.npz"):
        (again / name).unlink()
    for path in sorted((again / "checkpoints").iterdir())[len(stored) // 2 :]:
        path.unlink()
    finetune(config(data, again, ema_momentum=0.6, **settings))
    continued = keras.models.load_model(again / "model.keras", compile=False)
    for one, other in zip(model.get_weights(), continued.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_average_after_the_last_step_is_kept_where_no_epoch_is_chosen(folder, data):
    settings = {"epochs": 1, "max_steps": 2, "select_by": "last", "checkpoint_every": "1", "checkpoints_kept": 9}
    finetune(config(data, folder / "average_of_two", ema_momentum=0.25, **settings))
    steps = weights_of_steps(folder / "average_of_two")
    assert len(steps) == 2
    kernel = np.asarray(keras.models.load_model(folder / "average_of_two" / "model.keras", compile=False).head.kernel)
    expected = [0.25 * a + 0.75 * b for a, b in zip(*steps, strict=True) if a.shape == kernel.shape]
    assert min(np.abs(kernel - each).max() for each in expected) < 1e-6


def test_without_validation_all_of_train_is_trained_on_and_test_is_judged_as_the_paper_does(folder, data, dataset):
    run = folder / "whole_train"
    summary = finetune(config(data, run, epochs=2, validation_fraction=0.0))
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert summary["split_sizes"]["train"] == sizes["train"] + sizes["validation"]
    assert (summary["threshold_policy"], summary["optimistic"], summary["selected_by"]) == ("paper", True, "last")
    assert "val" not in summary and tuple(summary["test"]) == METRIC_NAMES
    with pytest.raises(InputError, match="kept no validation apart needs --threshold=paper or a number"):
        evaluate_run(EvaluateConfig(workdir=str(run)))
    judged = evaluate_run(EvaluateConfig(workdir=str(run), threshold="paper"))
    assert judged["test"] == pytest.approx(summary["test"], abs=1e-6)


def test_the_classifier_goes_on_with_the_layer_of_the_distributions(folder, data, tmp_path):
    settings = {"epochs": 1, "batch_size": 16, "method": "cld", "queue_size": 32}
    before = tmp_path / "cld"
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), workdir=str(before), **settings))
    kernel = np.load(before / "head.npz")["kernel"]

    def moved(**choice):
        run = tmp_path / f"run{len(choice)}"
        finetune(config(data, run, pretrained=str(before), epochs=1, learning_rate=1e-6, **choice))
        model = keras.models.load_model(run / "model.keras", compile=False)
        return np.abs(np.asarray(model.head.kernel) - kernel).max()

    assert moved() < 1e-3 < moved(head="fresh")


def test_thresholds_are_chosen_on_validation_and_metrics_are_those_of_the_saved_model(tuned, dataset):
    run, summary = tuned
    validation, test = dataset.splits["validation"], dataset.splits["test"]
    thresholds = choose_thresholds(validation.labels, probabilities_of(run, validation))
    assert summary["thresholds"] == thresholds
    probabilities = probabilities_of(run, test)
    predicted = {name: (probabilities > threshold).astype(int) for name, threshold in thresholds.items()}
    expected = {
        "mAP": average_precision_score(test.labels, probabilities, average="macro"),
        "macro_f1": f1_score(test.labels, predicted["macro_f1"], average="macro"),
        "micro_f1": f1_score(test.labels, predicted["micro_f1"], average="micro"),
        "hamming_accuracy": (predicted["hamming_accuracy"] == test.labels).mean(),
        "precision_at_1": test.labels[np.arange(len(test)), probabilities.argmax(1)].mean(),
    }
    for name, value in expected.items():
        assert summary["test"][name] == pytest.approx(value, abs=1e-6), name
    np.testing.assert_allclose(np.load(run / "test_outputs.npz")["probabilities"], probabilities, atol=1e-6)


def test_a_fixed_threshold_and_the_papers_are_used_as_asked(probe, scratch, dataset):
    assert set(probe[1]["thresholds"].values()) == {0.5}
    run, summary = scratch
    test = dataset.splits["test"]
    assert summary["thresholds"] == choose_thresholds(test.labels, probabilities_of(run, test), PAPER_THRESHOLD_GRID)


def test_a_linear_probe_leaves_the_pretrained_backbone_as_it_is_and_fine_tuning_moves_it(
    tuned, probe, pretrained, dataset
):
    weights = pretrained_weights(pretrained, dataset)
    frozen, moved = (keras.models.load_model(run / "model.keras", compile=False) for run, _ in (probe, tuned))
    for before, after in zip(weights, frozen.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert epochs_of(probe[0])[1]["val_loss"] < epochs_of(probe[0])[0]["val_loss"]
    for before, after in zip(weights, moved.backbone.get_weights(), strict=True):
        assert not np.array_equal(before, after)


def test_evaluate_gives_the_numbers_of_the_summary_and_writes_them_where_asked(tuned, dataset, tmp_path):
    run, summary = tuned
    results = evaluate_run(EvaluateConfig(workdir=str(run), output=str(tmp_path / "all.json")))
    for part in ("val", "test", "thresholds", "threshold_policy", "optimistic", "details"):
        assert results[part] == summary[part], part
    assert json.loads((tmp_path / "all.json").read_text()) == results
    assert len(results["details"]["test"]["average_precision"]) == len(LABEL_NAMES)
    train = evaluate_run(EvaluateConfig(workdir=str(run), split="train"))
    assert train["thresholds"] == summary["thresholds"]
    assert train["val"] == summary["val"]
    probabilities = probabilities_of(run, dataset.splits["train"])
    expected = average_precision_score(dataset.splits["train"].labels, probabilities, average="macro")
    assert train["train"]["mAP"] == pytest.approx(expected, abs=1e-6)
    assert evaluate_run(EvaluateConfig(workdir=str(run), threshold="0.3"))["thresholds"]["macro_f1"] == 0.3


@pytest.fixture(scope="module")
def mixed(folder, data):
    finetune(config(data, folder / "mixed", mix_neighbours=True, epochs=3))
    return folder / "mixed"


def test_neighbours_are_mixed_in_by_what_is_best_on_validation_and_served_with_the_model(mixed, folder, data, dataset):
    plain = finetune(config(data, folder / "unmixed", epochs=3))
    summary = RunDirectory(mixed).read_summary()
    assert summary["neighbours"]["share"] > 0 and summary["val"]["mAP"] > plain["val"]["mAP"]
    assert "neighbours" not in plain
    for split, key in (("validation", "val"), ("test", "test")):
        assert evaluate_run(EvaluateConfig(workdir=str(mixed), split=split))[key] == pytest.approx(
            summary[key], abs=1e-6
        )
    samples = dataset.splits["test"].inputs
    served = load_saved_model(mixed / "saved_model").signatures["serving_default"](features=tf.constant(samples))
    with np.load(mixed / "test_outputs.npz") as written:
        np.testing.assert_allclose(served["probabilities"], written["probabilities"], atol=1e-5)
        with np.load(folder / "unmixed" / "test_outputs.npz") as other:
            np.testing.assert_allclose(written["embedding"], other["embedding"], atol=1e-5)
            assert np.abs(written["probabilities"] - other["probabilities"]).max() > 0.01


def test_a_card_says_that_the_model_holds_training_samples(mixed, tuned, tmp_path):
    for run, held in ((mixed, True), (tuned[0], False)):
        export_run(ExportConfig(workdir=str(run), output=str(tmp_path / run.name)))
        card = (tmp_path / run.name / "MODEL_CARD.md").read_text(encoding="utf-8")
        assert ("The model holds training samples" in card) == held


def test_evaluate_finds_data_that_have_moved(scratch, data, tmp_path):
    run = shutil.copytree(scratch[0], tmp_path / "run")
    text = (run / "flags.txt").read_text()
    (run / "flags.txt").write_text(text.replace(f"--data_dir={data}", "--data_dir=/nowhere"))
    with pytest.raises(InputError, match=r"--data_dir must be an existing folder.*Received: /nowhere"):
        evaluate_run(EvaluateConfig(workdir=str(run)))
    results = evaluate_run(EvaluateConfig(workdir=str(run), data_dir=str(data), threshold="paper"))
    assert results["test"] == scratch[1]["test"]


@pytest.mark.parametrize("strategy", ["none", "multiworker"])  # a worker without the others, which TF_CONFIG would name
def test_the_same_command_again_says_finished_and_other_settings_are_refused(scratch, data, caplog, strategy):
    run, summary = scratch
    before = contents(run)
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        assert finetune(config(data, run, epochs=2, threshold="paper", strategy=strategy)) == summary
    assert "finished; nothing to do" in caplog.text
    with pytest.raises(InputError, match=r"--learning_rate: 0\.01 there, 0\.02 here"):
        finetune(config(data, run, epochs=2, threshold="paper", learning_rate=0.02))
    assert contents(run) == before


def test_a_run_that_lost_its_end_is_continued_to_the_same_end(tuned, data, pretrained, tmp_path):
    """What an interruption leaves: an older checkpoint, which knows the best weights, and a log that is ahead of it."""
    whole, summary = tuned
    older = min((whole / "checkpoints").iterdir())
    parts = tmp_path / "parts"
    (parts / "checkpoints").mkdir(parents=True)
    for path in (whole / "flags.txt", whole / "metrics.jsonl", older):
        shutil.copy(path, parts / path.relative_to(whole))
    continued = finetune(config(data, parts, pretrained=str(pretrained), patience=PATIENCE))
    for part in ("val", "test", "thresholds", "best_epoch", "epochs", "steps"):
        assert continued[part] == summary[part], part
    assert [record["val_loss"] for record in epochs_of(parts)] == [record["val_loss"] for record in epochs_of(whole)]


def test_backbone_and_image_size_are_those_of_the_pretraining(tmp_path):
    images = write_npz(tiny_images(), tmp_path / "images")
    there = tmp_path / "pre"
    there.mkdir()
    build_backbone("resnet8", (16, 16, 3)).save_weights(there / "encoder.weights.h5")
    (there / "flags.txt").write_text("--backbone=resnet8\n--image_size=16\n")
    said = {"phase": "pretrain", "backbone": "resnet8", "input_shape": [16, 16, 3], "dataset": "coco", "method": "self"}
    (there / "summary.json").write_text(json.dumps(said))
    common = {"dataset": "npz", "data_dir": str(images), "batch_size": 8, "max_steps": 1, "pretrained": str(there)}
    summary = finetune(FinetuneConfig(**common, workdir=str(tmp_path / "tuned")))
    assert (summary["backbone"], summary["input_shape"]) == ("resnet8", [16, 16, 3])
    assert read_flags(tmp_path / "tuned" / "flags.txt")["backbone_learning_rate_scale"] == "0.1"
    with pytest.raises(InputError, match=r"architecture: --backbone=resnet14 .*Received: .*--backbone=resnet8"):
        finetune(FinetuneConfig(**common, backbone="resnet14", workdir=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


def without_summary(run):
    (run / "summary.json").unlink()


def without_weights(run):
    (run / "encoder.weights.h5").unlink()


def with_half_the_weights(run):
    path = run / "encoder.weights.h5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"finished run directory.*which does not exist"),
        (without_summary, r"finished run directory.*is its run finished\?"),
        (without_weights, r"must hold a whole encoder\.weights\.h5"),
        (with_half_the_weights, r"must hold a whole encoder\.weights\.h5"),
    ],
)
def test_a_pretraining_that_is_not_whole_is_refused_and_nothing_is_written(pretrained, data, tmp_path, damage, message):
    copy = shutil.copytree(pretrained, tmp_path / "copy")
    damage(copy)
    with pytest.raises(InputError, match=message) as raised:
        finetune(config(data, tmp_path / "new", pretrained=str(copy)))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_a_pretraining_on_other_samples_and_one_that_is_none_are_refused(pretrained, scratch, data, tmp_path):
    wider = write_npz(tiny_vectors(num_features=12), tmp_path / "wider")
    pictures = write_npz(tiny_images(), tmp_path / "pictures")
    for source, run, message in (
        (wider, pretrained, r"on samples of shape \(12,\)\. Received: .* on \(10,\), pretrained on npz"),
        (pictures, pretrained, r"on samples of shape \(20, 16, 3\)\. Received: .* on \(10,\), pretrained on npz"),
        (data, scratch[0], r"must be the run directory of a pretraining\. Received: .*, a finetune run"),
    ):
        with pytest.raises(InputError, match=message):
            finetune(config(source, tmp_path / "new", pretrained=str(run)))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "judge",
    [
        lambda run: evaluate_run(EvaluateConfig(workdir=str(run))),
        lambda run: export_run(ExportConfig(workdir=str(run), output=f"{run}-export")),
    ],
)
def test_only_a_finished_fine_tuning_is_evaluated_and_exported(judge, pretrained, scratch, tmp_path):
    with pytest.raises(InputError, match=r"must be the run directory of a fine-tuning\. Received: .*, a pretrain run"):
        judge(pretrained)
    with pytest.raises(InputError, match="which does not exist"):
        judge(tmp_path / "nothing")
    damaged = shutil.copytree(scratch[0], tmp_path / "damaged")
    (damaged / "model.keras").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"must hold a whole model\.keras"):
        judge(damaged)
    assert not (tmp_path / "damaged-export").exists()


def test_export_writes_to_a_new_folder_only(scratch, tmp_path):
    output = tmp_path / "deep" / "exported"
    export_run(ExportConfig(workdir=str(scratch[0]), output=str(output)))
    assert {path.name for path in output.iterdir()} >= {"saved_model.pb", "variables"}
    with pytest.raises(InputError, match="--output must not exist yet"):
        export_run(ExportConfig(workdir=str(scratch[0]), output=str(output)))


def test_a_wrong_threshold_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="threshold must be validation, per_label, paper, or a number"):
        finetune(FinetuneConfig(dataset="npz", workdir=str(tmp_path / "new"), threshold="best"))
    assert not (tmp_path / "new").exists()


def test_a_network_that_cannot_be_had_in_float32_costs_no_training(data, tmp_path, monkeypatch):
    def fail(model):
        raise TypeError("a layer of a kind that nobody has foreseen")

    monkeypatch.setattr("mulsupcon_tf.commands.finetuning.in_float32", fail)
    with pytest.raises(TypeError, match="nobody has foreseen"):
        finetune(config(data, tmp_path / "new", mixed_precision="bfloat16"))
    assert not (tmp_path / "new").exists()


def test_with_a_fraction_of_the_labels_both_phases_train_on_the_same_samples_and_are_judged_on_whole_splits(
    tmp_path, data
):
    share = {"label_fraction": 0.5, "epochs": 1, "seed": 3}  # 32 of 64 training samples: 2 steps of 16
    before = PretrainConfig(
        dataset="npz", data_dir=str(data), workdir=str(tmp_path / "before"), batch_size=16, method="mulsupcon", **share
    )
    earlier = pretrain(before)
    assert earlier["steps"] == 2
    result = finetune(config(data, tmp_path / "run", pretrained=before.workdir, **share))
    assert result["steps"] == 2
    assert result["label_frequencies"] == earlier["label_frequencies"]
    assert read_flags(tmp_path / "run" / "flags.txt")["label_fraction"] == "0.5"
    with np.load(tmp_path / "run" / "test_outputs.npz") as outputs:
        assert len(outputs["probabilities"]) == 24
    again = evaluate_run(EvaluateConfig(workdir=str(tmp_path / "run")))
    assert again["test"] == pytest.approx(result["test"], abs=1e-6)


@pytest.mark.parametrize(
    "share", [{"label_fraction": 0.2}, pytest.param({"validation_fraction": 0.0}, marks=pytest.mark.slow)]
)
def test_head_and_tail_are_those_of_the_samples_trained_on_in_both_commands(tmp_path, data, dataset, share):
    settings = {"batch_size": 4, "epochs": 1, "max_steps": 1, "seed": 1}
    result = finetune(config(data, tmp_path / "run", **settings, **share))
    again = evaluate_run(EvaluateConfig(workdir=str(tmp_path / "run"), threshold="0.5"))
    train, test = dataset.splits["train"].labels, dataset.splits["test"].labels
    if "label_fraction" in share:
        seen = stratified_share(dataset.splits["train"], 0.2, seed=1).labels
    else:
        seen = np.concatenate([train, dataset.splits["validation"].labels])

    def by_frequency(labels):
        return sorted(range(labels.shape[1]), key=lambda label: (-int(labels[:, label].sum()), label))

    assert by_frequency(seen) != by_frequency(train)  # else nothing is tested
    with np.load(tmp_path / "run" / "test_outputs.npz") as outputs:
        precisions = [average_precision_score(test[:, j], outputs["probabilities"][:, j]) for j in by_frequency(seen)]
    for found in (result["details"]["test"], again["details"]["test"]):
        for name, group in zip(("head", "medium", "tail"), np.array_split(precisions, 3), strict=True):
            assert found[f"mAP_{name}"] == pytest.approx(np.mean(group), abs=1e-6), name


@pytest.mark.parametrize(
    ("before", "after"),
    [*(pytest.param(*case, marks=pytest.mark.slow) for case in ((None, 0.5), (0.5, None))), (0.5, 0.25)],
)
def test_a_pretrained_encoder_sees_vectors_standardised_as_it_learnt_them(tmp_path, data, dataset, before, after):
    earlier = PretrainConfig(
        dataset="npz",
        data_dir=str(data),
        workdir=str(tmp_path / "before"),
        batch_size=16,
        method="mulsupcon",
        epochs=1,
        seed=3,
        label_fraction=before,
    )
    pretrain(earlier)
    finetune(config(data, tmp_path / "run", pretrained=earlier.workdir, epochs=1, seed=4, label_fraction=after))
    expected = dataset.splits["train"]
    if before is not None:
        expected = stratified_share(expected, before, seed=3)
    (layer,) = (
        layer
        for layer in keras.models.load_model(tmp_path / "run" / "model.keras").backbone.layers
        if isinstance(layer, keras.layers.Normalization)
    )
    np.testing.assert_allclose(np.ravel(layer.mean), expected.inputs.mean(axis=0, dtype=np.float64), rtol=1e-5)


def test_without_a_pretraining_a_share_is_standardised_by_itself(tmp_path, data, dataset):
    finetune(config(data, tmp_path / "run", epochs=1, seed=4, label_fraction=0.5))
    expected = stratified_share(dataset.splits["train"], 0.5, seed=4).inputs
    backbone = keras.models.load_model(tmp_path / "run" / "model.keras").backbone
    (mean,) = (layer.mean for layer in backbone.layers if isinstance(layer, keras.layers.Normalization))
    np.testing.assert_allclose(np.ravel(mean), expected.mean(axis=0, dtype=np.float64), rtol=1e-5)
