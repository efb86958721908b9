"""What `--init_from` begins with; what `--pretrained` brings is held by the tests of fine-tuning."""

import json
import logging
import shutil

import keras
import numpy as np
import pytest

from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.command_line import config_of, flag_values
from mulsupcon_tf.config.fields import as_texts
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.models import backbones
from mulsupcon_tf.training.run_directory import read_flags
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import IMAGE_SHAPE, SIZES, tiny_images, tiny_vectors, write_npz

pytestmark = pytest.mark.usefixtures("without_graph_optimisation", "without_dropout")

# A step an epoch, on all samples as they are, at one rate: the first epoch of a run that goes on from one of two is what the
# third of one of three would be. Only the order of the samples is another.
SAME_STEPS = {
    "dataset": "npz",
    "batch_size": SIZES["train"],
    "mask_rate": 0.0,
    "learning_rate": 0.01,
    "warmup_epochs": 0.0,
    "final_learning_rate_scale": 1.0,
    "checkpoint_every": "1e",
}


@pytest.fixture(scope="module")
def without_dropout():
    """Which would draw otherwise in the first step of a run than in the third of another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "Dropout", lambda rate: keras.layers.Dropout(0 * rate))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("earlier_runs")


@pytest.fixture(scope="module")
def data(folder):
    return str(write_npz(tiny_vectors(), folder / "vectors"))


def pretraining(data, workdir, **settings):
    defaults = {"method": "rld", "queue_size": 100, "bce_weight": 1.0, "momentum": 0.5, "epochs": 2}
    config = PretrainConfig(**SAME_STEPS | defaults | settings | {"data_dir": data, "workdir": str(workdir)})
    pretrain(config)
    return workdir


def fine_tuning(data, workdir, **settings):
    """By flags, as on the command line."""
    given = SAME_STEPS | {"epochs": 2} | settings | {"data_dir": data, "workdir": workdir}
    finetune(
        config_of(
            FinetuneConfig, flag_values(FinetuneConfig, [f"--{name}={text}" for name, text in as_texts(given).items()])
        )
    )
    return workdir


@pytest.fixture(scope="module")
def pretrained(folder, data):
    return pretraining(data, folder / "pretrained")


@pytest.fixture(scope="module")
def tuned(folder, data):
    return fine_tuning(data, folder / "tuned", select_by="last")


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_command_line_goes_on_where_a_pretraining_of_more_epochs_would(pretrained, data, tmp_path, caplog):
    longer = losses(pretraining(data, tmp_path / "longer", epochs=3))
    assert losses(pretrained) == pytest.approx(longer[:2], rel=1e-5)
    assert abs(longer[2] / longer[1] - 1) > 0.01  # so that the weights before, or a queue that is empty, would be seen
    line = [
        f"--flagfile={pretrained}/flags.txt",
        f"--init_from={pretrained}",
        f"--workdir={tmp_path}/more",
        "--epochs=1",
    ]
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        pretrain(config_of(PretrainConfig, flag_values(PretrainConfig, line)))
    assert f"start: the weights of {pretrained}\n" in caplog.text
    assert losses(tmp_path / "more") == pytest.approx(longer[2:], rel=1e-4)
    summary = json.loads((tmp_path / "more" / "summary.json").read_text())
    assert (summary["epochs"], summary["epochs_before"]) == (1, 2)


def test_it_begins_with_the_weights_that_were_kept_and_with_their_standardisation(data, tmp_path):
    """A fifth of train has other means; steps that are far too large make the loss rise."""
    settings = {"learning_rate": 0.3, "epochs": 5, "label_fraction": 0.2, "batch_size": 8, "select_by": "loss"}
    run = fine_tuning(data, tmp_path / "run", **settings)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_epoch"] < summary["epochs"]
    more = fine_tuning(data, tmp_path / "more", epochs=1, init_from=str(run), head="fresh")
    kept, train = keras.models.load_model(run / "model.keras"), tiny_vectors().splits["train"]
    logits = np.asarray(kept(train.inputs), np.float64)
    by_hand = np.mean(np.logaddexp(0, logits) - train.labels * logits)
    assert losses(more) == pytest.approx([by_hand], rel=1e-4)


def test_parts_of_other_shapes_begin_anew_and_are_named_and_other_sizes_are_those_of_the_run(
    pretrained, data, tmp_path, caplog
):
    with caplog.at_level(logging.INFO, "mulsupcon_tf"):
        other = {"embedding_size": 8, "method": "any", "queue_size": None, "epochs": 1}
        run = pretraining(data, tmp_path / "other", init_from=str(pretrained), **other)
    named = "projection_head, key_projection_head, queue"
    assert f"start: the weights of {pretrained}, but for {named}\n" in caplog.text
    settings = read_flags(run / "flags.txt")
    assert (settings["queue_size"], settings["backbone"]) == ("100", "mlp")
    assert len(losses(run)) == 1


def test_one_begins_with_a_run_whose_batch_was_larger_than_the_data_are_now(pretrained, tmp_path):
    """Its own `--batch_size` of 64 is read, since it is no size of what is trained here."""
    fewer = str(write_npz(tiny_vectors(sizes=SIZES | {"train": 40}), tmp_path / "fewer"))
    settings = {"init_from": str(pretrained), "batch_size": 20, "epochs": 1, "allow_changed_data": True}
    assert len(losses(pretraining(fewer, tmp_path / "more", **settings))) == 1


def renamed(dataset, label_names):
    return MultiLabelDataset(dataset.name, dataset.kind, label_names, dataset.splits)


def test_what_must_agree_is_refused_in_one_line_and_nothing_is_written(pretrained, tuned, data, tmp_path):
    others = str(write_npz(renamed(tiny_vectors(), ("red", "grey", "blue", "bright")), tmp_path / "others"))
    moved = str(write_npz(tiny_vectors(seed=1), tmp_path / "moved"))
    wider = str(write_npz(tiny_vectors(num_features=12), tmp_path / "wider"))
    pictures = str(write_npz(tiny_images(), tmp_path / "pictures"))
    broken = shutil.copytree(pretrained, tmp_path / "broken")
    shutil.rmtree(broken / "checkpoints")
    here = tmp_path / "new"
    for start, source, run, settings, message in (
        (fine_tuning, others, tuned, {}, "labels.*'grey' for label 2, not 'green'"),
        (pretraining, others, pretrained, {}, "labels.*'grey' for label 2, not 'green'"),
        (fine_tuning, moved, tuned, {}, "data must be those that .* saw"),
        (fine_tuning, wider, tuned, {}, r"shape \(12,\)\. Received: .* on \(10,\), trained on npz"),
        (fine_tuning, pictures, tuned, {"backbone": "resnet8", "mask_rate": None}, "--backbone=resnet8 .*=mlp"),
        (fine_tuning, data, pretrained, {}, "directory of a fine-tuning. Received: .*, a pretrain run"),
        (pretraining, data, tuned, {}, "directory of a pretraining. Received: .*, a finetune run"),
        (pretraining, data, tmp_path / "none", {}, "which does not exist"),
        (fine_tuning, data, tuned, {"pretrained": str(pretrained)}, "leave out a --pretrained .* not none"),
        (pretraining, data, broken, {}, "last checkpoint. Received: .*, which has none"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            start(source, here, init_from=str(run), **settings)
        assert "\n" not in str(raised.value)
        assert not here.exists()


WHOLE = {"validation_fraction": 0.0, "epochs": 1}


@pytest.fixture(scope="module")
def learnt(folder, data):
    """A pretraining on all samples, validation too, and a fine-tuning of it."""
    run = pretraining(data, folder / "learnt", **WHOLE)
    return {"pretrain": run, "finetune": fine_tuning(data, folder / "learnt_too", pretrained=str(run), **WHOLE)}


def test_a_validation_split_whose_labels_were_learnt_is_refused_and_nothing_is_written(learnt, data, tmp_path):
    for start, settings in (
        (fine_tuning, {"pretrained": str(learnt["pretrain"])}),
        (fine_tuning, {"init_from": str(learnt["finetune"])}),
        (pretraining, {"init_from": str(learnt["pretrain"])}),
    ):
        with pytest.raises(
            InputError, match=r"--validation_fraction=0 must be given here too where --.*labels"
        ) as raised:
            start(data, tmp_path / "new", epochs=1, **settings)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "new").exists()


def test_what_a_run_before_the_named_one_has_learnt_is_not_forgotten(learnt, data, tmp_path):
    """By its summary: the run before may be gone, and the one between may keep validation apart on other data."""
    between = shutil.copytree(learnt["finetune"], tmp_path / "between")
    fingerprint = json.loads((between / "summary.json").read_text())["data_fingerprint"]
    assert json.loads((between / "summary.json").read_text())["validation_learnt"] == [fingerprint]
    flags = (between / "flags.txt").read_text().replace("--validation_fraction=0.0\n", "")
    (between / "flags.txt").write_text(flags)
    with pytest.raises(InputError, match="--validation_fraction=0 must be given here too"):
        fine_tuning(data, tmp_path / "new", epochs=1, init_from=str(between))


def test_samples_without_labels_and_other_data_are_a_warning_alone(learnt, data, tmp_path, caplog):
    unlabelled = pretraining(data, tmp_path / "self", method="self", bce_weight=None, **WHOLE)
    tuned = fine_tuning(data, tmp_path / "tuned", epochs=1, pretrained=str(unlabelled))
    assert "has seen the samples of validation, not their labels" in caplog.text
    assert "validation_learnt" not in json.loads((tuned / "summary.json").read_text())
    moved = str(write_npz(tiny_vectors(seed=1), tmp_path / "moved"))
    caplog.clear()
    fine_tuning(moved, tmp_path / "other", epochs=1, pretrained=str(learnt["pretrain"]), allow_changed_data=True)
    assert "has learnt what was validation in its data" in caplog.text


def test_a_run_that_an_earlier_version_has_begun_goes_on_with_a_warning(learnt, tuned, data, tmp_path, caplog):
    begun = shutil.copytree(tuned, tmp_path / "begun")
    (begun / "summary.json").unlink()
    (begun / "flags.txt").write_text((begun / "flags.txt").read_text() + f"--pretrained={learnt['pretrain']}\n")
    fine_tuning(data, begun, select_by="last", pretrained=str(learnt["pretrain"]))
    assert "warning: --validation_fraction=0 must be given here too" in caplog.text
    assert json.loads((begun / "summary.json").read_text())["validation_learnt"]


@pytest.mark.parametrize("start", [pretraining, pytest.param(fine_tuning, marks=pytest.mark.slow)])
def test_the_file_of_the_first_weights_may_be_gone(start, tmp_path):
    """Be the run gone on from or continued: `--init_from` and the checkpoint bring all weights."""
    pictures, file = str(write_npz(tiny_images(), tmp_path / "pictures")), tmp_path / "first.weights.h5"
    backbones.build_backbone("resnet8", IMAGE_SHAPE).save_weights(file)
    network = {"backbone": "resnet8", "backbone_weights": str(file), "mask_rate": None, "checkpoints_kept": 3}
    whole = start(pictures, tmp_path / "whole", **network)
    parts = shutil.copytree(whole, tmp_path / "parts")
    (parts / "summary.json").unlink()
    (sorted((parts / "checkpoints").iterdir())[-1]).unlink()
    file.unlink()
    with pytest.raises(InputError, match="must be imagenet or an existing file"):
        start(pictures, tmp_path / "new", **network)
    start(pictures, parts, **network)
    assert losses(parts) == losses(whole)
    more = start(pictures, tmp_path / "more", **network, init_from=str(whole))
    assert losses(more)[0] < losses(whole)[0]
    assert read_flags(more / "flags.txt")["backbone_weights"] == str(file)


@pytest.mark.slow
def test_a_run_on_other_data_says_so_and_goes_on_from_its_own_checkpoint(tuned, tmp_path):
    moved = str(write_npz(tiny_vectors(seed=1), tmp_path / "moved"))
    settings = {"init_from": str(tuned), "epochs": 3, "checkpoints_kept": 3, "allow_changed_data": True}
    whole = fine_tuning(moved, tmp_path / "whole", **settings)
    changed = json.loads((whole / "summary.json").read_text())["changed_data"]
    assert changed.startswith(f"since {tuned} was trained: other labels")
    parts = shutil.copytree(whole, tmp_path / "parts")
    (parts / "summary.json").unlink()
    for path in sorted((parts / "checkpoints").iterdir())[1:]:
        path.unlink()
    fine_tuning(moved, parts, **settings)
    assert losses(parts) == losses(whole)
