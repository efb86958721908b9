import dataclasses
import json
import shutil

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from mulsupcon_tf.commands import outputs
from mulsupcon_tf.commands.embedding import export_embeddings
from mulsupcon_tf.commands.evaluating import evaluate_retrieval, evaluate_run, format_retrieval_table
from mulsupcon_tf.commands.finetuning import finetune
from mulsupcon_tf.commands.finished_run import open_run
from mulsupcon_tf.commands.pretraining import pretrain
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import EmbedConfig, EvaluateConfig
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.embed import main as embed
from mulsupcon_tf.evaluate import main as evaluate
from mulsupcon_tf.evaluation.retrieval import MEASURES, evaluate_embeddings
from mulsupcon_tf.models.backbone_weights import save_weights
from mulsupcon_tf.models.backbones import build_backbone
from mulsupcon_tf.training.checkpoints import CheckpointStore
from mulsupcon_tf.utils import atomic_file
from mulsupcon_tf.utils.errors import InputError
from tests.datasets.photo_folders import write_photo
from tests.helpers.tiny_datasets import LABEL_NAMES, tiny_images, tiny_vectors, write_npz

pytestmark = pytest.mark.usefixtures("without_graph_optimisation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run_embeddings")


@pytest.fixture(scope="module")
def data(folder):
    return write_npz(tiny_vectors(), folder / "vectors")


@pytest.fixture(scope="module")
def pretrained(folder, data):
    settings = {"epochs": 2, "batch_size": 16, "embedding_size": 8, "method": "cld", "workdir": str(folder / "pre")}
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), **settings))
    return folder / "pre"


@pytest.fixture(scope="module")
def tuned(folder, data, pretrained):
    settings = {"epochs": 2, "batch_size": 16, "pretrained": str(pretrained), "workdir": str(folder / "tuned")}
    finetune(FinetuneConfig(dataset="npz", data_dir=str(data), **settings))
    return folder / "tuned"


@pytest.fixture
def runs(pretrained, tuned):
    return {"pretrain": pretrained, "finetune": tuned}


def arrays_of(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_a_pretraining_gives_what_it_wrote_when_it_ended(pretrained, data, tmp_path):
    export_embeddings(EmbedConfig(workdir=str(pretrained), output=str(tmp_path / "new" / "test.npz")))
    arrays = arrays_of(tmp_path / "new" / "test.npz")
    then = arrays_of(pretrained / "test_outputs.npz")
    assert arrays.keys() == then.keys() | {"labels", "label_names"}
    for name, array in then.items():
        np.testing.assert_allclose(arrays[name], array, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(arrays["labels"], load_dataset("npz", data_dir=str(data)).splits["test"].labels)
    assert arrays["label_names"].tolist() == list(LABEL_NAMES)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["test.npz"]


def test_a_pretraining_on_a_share_of_the_samples_is_rebuilt_with_the_statistics_of_that_share(data, tmp_path):
    run = tmp_path / "run"
    settings = {"max_steps": 1, "batch_size": 4, "embedding_size": 8, "method": "cld", "label_fraction": 0.2}
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), workdir=str(run), **settings))
    arrays = export_embeddings(EmbedConfig(workdir=str(run), output=str(tmp_path / "test.npz")))
    for name, array in arrays_of(run / "test_outputs.npz").items():
        np.testing.assert_allclose(arrays[name], array, atol=1e-6, err_msg=name)


def test_settings_that_were_cut_out_are_named(pretrained, data, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    lines = (run / "flags.txt").read_text().splitlines()
    for name in ("epochs", "batch_size", "queue_size"):
        (run / "flags.txt").write_text("".join(f"{line}\n" for line in lines if not line.startswith(f"--{name}=")))
        with pytest.raises(InputError, match=f"must be whole, with '{name}'"):
            open_run(str(run), str(data))


def embed_run(run, tmp_path, **settings):
    return export_embeddings(EmbedConfig(workdir=str(run), output=str(tmp_path / "again.npz"), **settings))["embedding"]


def test_an_earlier_checkpoint_is_trained_on_from_but_does_not_answer_for_the_run(pretrained, data, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    store = CheckpointStore(run / "checkpoints")
    arrays, progress = store.load_latest()
    store.save(3, arrays, progress | {"step": 3})
    last = run / "checkpoints" / "step-0000000008.npz"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    rule = rf"must hold its last checkpoint whole, that of step 8\. Received: {run}, whose newest .* is of step 3$"
    refused(f"^--workdir {rule}", embed_run, run, tmp_path)
    settings = {"epochs": 1, "method": "cld", "init_from": str(run), "workdir": str(tmp_path / "more")}
    refused(f"^--init_from {rule}", pretrain, PretrainConfig(dataset="npz", data_dir=str(data), **settings))
    last.unlink()
    refused(rule, embed_run, run, tmp_path)


def test_a_run_of_an_earlier_version_that_was_all_warm_up_is_opened(pretrained, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    flags = (run / "flags.txt").read_text()
    (run / "flags.txt").write_text(flags.replace("--warmup_epochs=0.0\n", "--warmup_epochs=5.0\n"))
    assert "--warmup_epochs=5.0\n" in (run / "flags.txt").read_text()
    np.testing.assert_array_equal(embed_run(run, tmp_path), embed_run(pretrained, tmp_path))


def test_a_pretraining_is_opened_without_the_weights_that_it_began_with(data, tmp_path):
    weights = tmp_path / "start.weights.h5"
    save_weights(build_backbone("mlp", (10,)), weights)
    settings = {"backbone": "mlp", "backbone_weights": str(weights), "max_steps": 1, "batch_size": 16, "method": "any"}
    pretrain(PretrainConfig(dataset="npz", data_dir=str(data), workdir=str(tmp_path / "run"), **settings))
    expected = embed_run(tmp_path / "run", tmp_path)
    weights.unlink()
    np.testing.assert_array_equal(embed_run(tmp_path / "run", tmp_path), expected)


def test_a_fine_tuning_gives_features_and_probabilities(tuned, tmp_path):
    export_embeddings(EmbedConfig(workdir=str(tuned), output=str(tmp_path / "test.npz")))
    arrays, then = arrays_of(tmp_path / "test.npz"), arrays_of(tuned / "test_outputs.npz")
    assert arrays.keys() == {"features", "probabilities", "labels", "label_names"}
    np.testing.assert_allclose(arrays["features"], then["embedding"], atol=1e-6)
    np.testing.assert_allclose(arrays["probabilities"], then["probabilities"], atol=1e-6)


def test_true_distributions_go_along_and_are_judged_by(tmp_path):
    dataset = tiny_vectors()
    splits = {
        name: dataclasses.replace(split, distributions=(split.labels / split.labels.sum(1, keepdims=True)).astype("f4"))
        for name, split in dataset.splits.items()
    }
    data = write_npz(dataclasses.replace(dataset, splits=splits), tmp_path / "vectors")
    workdir = str(tmp_path / "run")
    finetune(FinetuneConfig(dataset="npz", data_dir=str(data), max_steps=1, workdir=workdir))
    arrays = export_embeddings(EmbedConfig(workdir=workdir, split="validation", output=str(tmp_path / "e.npz")))
    np.testing.assert_array_equal(arrays["true_distribution"], splits["validation"].distributions)
    judged = evaluate_retrieval(EvaluateConfig(workdir=workdir, retrieval=True, neighbours=3))
    assert judged["truth"]
    assert all(judged["results"][name]["queries"] == 24 for name in MEASURES)


def test_files_are_named_below_the_folder_of_the_data_and_what_was_not_recovered_is_left_out(tmp_path):
    photos = tmp_path / "photos"
    rows = [f"sub/{number}.jpg,{'sea' if number % 2 else 'beach&sea'}" for number in range(12)]
    for number in range(12):
        write_photo(photos / "sub" / f"{number}.jpg", number)
    (photos / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    settings = {
        "method": "any",
        "max_steps": 1,
        "batch_size": 2,
        "image_size": 16,
        "backbone": "resnet8",
        "queue_size": 4,
        "label_separator": "&",
    }
    pretrain(
        PretrainConfig(dataset="csv", data_dir=str(photos), workdir=str(tmp_path / "run"), monitor_every=0, **settings)
    )
    arrays = export_embeddings(
        EmbedConfig(workdir=str(tmp_path / "run"), split="train", output=str(tmp_path / "train.npz"))
    )
    assert arrays.keys() == {"features", "embedding", "labels", "label_names", "files"}
    assert arrays["label_names"].tolist() == ["beach", "sea"]
    assert len(arrays["files"]) == len(arrays["features"])
    assert all((photos / file).is_file() for file in arrays["files"].tolist())
    assert not any(file.startswith("/") for file in arrays["files"].tolist())


@pytest.mark.slow
def test_a_fine_tuning_reads_its_table_again_as_it_did(tmp_path):
    photos = tmp_path / "photos"
    rows = [f'{number}.jpg,"{"moon" if number == 5 else "beach"},sea"' for number in range(12)]
    for number in range(12):
        write_photo(photos / f"{number}.jpg", number)
    (photos / "labels.csv").write_text("\n".join(["file,labels", *rows, ""]))
    settings = {"dataset": "csv", "data_dir": str(photos), "max_steps": 1, "batch_size": 2, "image_size": 16}
    settings |= {"backbone": "resnet8", "label_separator": ",", "min_label_count": 2}
    summary = finetune(FinetuneConfig(**settings, workdir=str(tmp_path / "tuned")))
    assert summary["label_names"] == ["beach", "sea"]
    export_embeddings(EmbedConfig(workdir=str(tmp_path / "tuned"), output=str(tmp_path / "test.npz")))
    assert arrays_of(tmp_path / "test.npz")["label_names"].tolist() == ["beach", "sea"]
    assert evaluate_run(EvaluateConfig(workdir=str(tmp_path / "tuned")))["test"] == summary["test"]


@pytest.mark.parametrize(
    ("phase", "representation"),
    [("pretrain", "embedding"), ("pretrain", "features"), ("finetune", "features"), ("finetune", "probabilities")],
)
def test_retrieval_is_that_of_the_representation_asked_for(runs, data, tmp_path, phase, representation):
    workdir = str(runs[phase])
    encoded = {
        name: export_embeddings(EmbedConfig(workdir=workdir, split=name, output=str(tmp_path / f"{name}.npz")))
        for name in ("train", "test")
    }
    settings = {"representation": representation, "neighbours": 5, "output": str(tmp_path / "judged.json")}
    judged = evaluate_retrieval(EvaluateConfig(workdir=workdir, retrieval=True, **settings))
    splits = load_dataset("npz", data_dir=str(data)).splits
    expected = evaluate_embeddings(
        encoded["test"][representation],
        encoded["train"][representation],
        splits["test"],
        splits["train"],
        num_neighbours=5,
    )
    for name in MEASURES:
        assert judged["results"][name]["queries"] == expected[name]["queries"]
        assert judged["results"][name]["value"] == pytest.approx(expected[name]["value"], abs=1e-6)
    assert json.loads((tmp_path / "judged.json").read_text()) == judged
    assert not judged["truth"]


def test_raw_vectors_are_searched_as_scikit_learn_standardises_them(tuned, data, tmp_path):
    splits = load_dataset("npz", data_dir=str(data)).splits
    scaler = StandardScaler().fit(splits["train"].inputs)
    queries, gallery = (scaler.transform(splits[name].inputs) for name in ("test", "train"))
    settings = {"representation": "raw", "output": str(tmp_path / "judged.json")}
    judged = evaluate_retrieval(EvaluateConfig(workdir=str(tuned), retrieval=True, **settings))
    expected = evaluate_embeddings(queries, gallery, splits["test"], splits["train"])
    for name in MEASURES:
        assert judged["results"][name]["value"] == pytest.approx(expected[name]["value"], abs=1e-6)


def test_raw_images_are_refused(tmp_path):
    data = write_npz(tiny_images(), tmp_path / "images")
    settings = {"max_steps": 1, "batch_size": 4, "backbone": "resnet8", "workdir": str(tmp_path / "run")}
    finetune(FinetuneConfig(dataset="npz", data_dir=str(data), **settings))
    refused(
        "raw needs a dataset of vectors",
        evaluate_retrieval,
        EvaluateConfig(workdir=settings["workdir"], retrieval=True, representation="raw"),
    )


def test_the_binary_prints_the_table_and_writes_it_into_the_run(tuned, capsys):
    evaluate(EvaluateConfig(workdir=str(tuned), retrieval=True, split="test", gallery="test"))
    judged = json.loads((tuned / "retrieval.json").read_text())
    printed = capsys.readouterr().out
    value = judged["results"]["mAP"]["value"]
    assert f"mAP@10 (shared labels)            {100 * value:5.1f}" in printed
    assert "queries: test, gallery: test, by cosine of features" in printed
    assert "dominant@10 is over the samples that have one label" in printed
    control = judged["control"]["mAP"]
    assert value > control["value"]
    assert control["draws"] == 20 and 0 < control["deviation"] < 0.2
    assert f" {100 * control['value']:.1f} ± {100 * control['deviation']:.1f} " in printed
    assert "random embeddings: mAP" not in printed
    judged["results"]["mAP"]["value"] = control["value"] + control["deviation"]
    last = format_retrieval_table(judged).splitlines()[5]
    assert last.startswith("cannot be distinguished from random embeddings: mAP@10 (shared labels)")


@pytest.mark.parametrize(
    "call",
    [
        lambda run, output: evaluate_run(EvaluateConfig(workdir=run, output=output)),
        lambda run, output: evaluate_retrieval(EvaluateConfig(workdir=run, output=output, retrieval=True)),
        lambda run, output: export_embeddings(EmbedConfig(workdir=run, output=output)),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_computed(call, tuned, tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_of_all", lambda *_: pytest.fail("computed"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError) as raised:
        call(str(tuned), str(tmp_path / "file" / "e.npz"))
    assert raised.value.filename == str(tmp_path / "file" / "e.npz")


def test_a_table_is_printed_although_its_file_cannot_be_written(tuned, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError("full")

    for retrieval, head in ((False, "metric"), (True, "retrieval")):
        output = tmp_path / head / "folder" / "all.json"
        settings = EvaluateConfig(workdir=str(tuned), output=str(output), retrieval=retrieval)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr(atomic_file, "write_text", full)
            evaluate(settings)
        assert capsys.readouterr().out.startswith(head)
        evaluate(settings)
        assert capsys.readouterr().out.startswith(head) and json.loads(output.read_text())


def test_the_embed_binary_says_what_it_wrote(tuned, tmp_path, capsys):
    embed(EmbedConfig(workdir=str(tuned), output=str(tmp_path / "e.npz")))
    assert "features [24, 256], probabilities [24, 4], labels [24, 4], label_names [4]" in capsys.readouterr().out


def refused(message, call, *settings):
    with pytest.raises(InputError, match=message) as raised:
        call(*settings)
    assert "\n" not in str(raised.value)


def test_wrong_input_is_refused_in_one_line(pretrained, tuned, tmp_path):
    output = str(tmp_path / "e.npz")
    refused(
        "--output must be a file that ends in .npz", export_embeddings, EmbedConfig(workdir=str(tuned), output="e.csv")
    )
    refused("--output is required", export_embeddings, EmbedConfig(workdir=str(tuned)))
    refused("does not exist", export_embeddings, EmbedConfig(workdir=str(tmp_path / "nowhere"), output=output))
    settings = EvaluateConfig(workdir=str(tuned), retrieval=True, representation="embedding")
    refused("must be one of features, probabilities, raw for a finetune run", evaluate_retrieval, settings)
    settings = EvaluateConfig(workdir=str(pretrained), retrieval=True, representation="probabilities")
    refused("must be one of embedding, features, raw for a pretrain run", evaluate_retrieval, settings)
    copy = shutil.copytree(pretrained, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    refused("in its last checkpoint.*which has none", export_embeddings, EmbedConfig(workdir=str(copy), output=output))
    (copy / "flags.txt").write_text("--dataset=npz\n--data_dir=/nowhere\n--speed=3\n")
    moved = dataclasses.replace(EmbedConfig(workdir=str(copy), output=output), data_dir=str(tmp_path / "missing"))
    refused("--data_dir must be an existing folder", export_embeddings, moved)
    assert not (tmp_path / "e.npz").exists()
