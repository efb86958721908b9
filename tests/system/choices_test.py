"""Each value of each choice flag goes through the whole chain at least once: pretrain, finetune, evaluate, embed, export, predict.

Chains are made from the choices of the settings: one for each backbone, through which the values of all other flags
rotate. A flag or a value that is new is thereby run, or the test of completeness names it.
"""

import dataclasses
import importlib
import json

import numpy as np
import pytest
from keras.src.applications import convnext, efficientnet_v2, mobilenet_v2, resnet
from PIL import Image

from mulsupcon_tf.config import common_flags, flags, program_flags
from mulsupcon_tf.config.backbones import BACKBONES, IMAGE_BACKBONES
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.config.program_flags import (
    AppConfig,
    CheckConfig,
    EmbedConfig,
    EvaluateConfig,
    ExportConfig,
    GalleryConfig,
    PredictConfig,
    SearchConfig,
)
from mulsupcon_tf.datasets.registry import load_dataset
from mulsupcon_tf.embed import main as embed
from mulsupcon_tf.evaluate import main as evaluate
from mulsupcon_tf.export import main as export
from mulsupcon_tf.finetune import main as finetune
from mulsupcon_tf.models import efficientnet_lite
from mulsupcon_tf.models.backbones import APPLICATIONS, RESIDUAL_NETWORKS
from mulsupcon_tf.predict import main as predict
from mulsupcon_tf.pretrain import main as pretrain
from mulsupcon_tf.search import main as search
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.choices import READ_BY
from mulsupcon_tf.utils.errors import InputError
from tests.helpers.tiny_datasets import tiny_images, tiny_vectors, write_npz

SIZES = {"train": 16, "validation": 8, "test": 8}
SMALL = {"epochs": 1, "max_steps": 2, "batch_size": 8}
CONFIGS = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "embed": EmbedConfig,
}
# Where every command is tried; a deeper network is not searched, embedded or exported once more, which takes as long as a step of
# training: what fine-tuning has exported answers.
LIGHT = ("mlp", "resnet8", "resnet14")
# The slow test alone runs networks with the kinds of layers of another one, and two whose chains take as long as those of all others.
LIKE_ANOTHER = ("resnet18", "resnet34", "resnet101", "mobilenetv2", "efficientnetv2-s", "convnext-small")
SLOW = ("efficientnetv2-b0", "convnext-tiny", *LIKE_ANOTHER)
BY_DEFAULT = tuple(name for name in BACKBONES if name not in SLOW)
# What other tests run, by where. Values stand here in so many words, so that a new one is not taken for run. Of `embed` one network
# stands for all, which the chains build by the same function.
ELSEWHERE = {
    "system.choices_test.test_a_model_is_exported_in_every_format": [
        ("export", "format", ("saved_model", "onnx", "litert"))
    ],
    "system.choices_test.test_a_gallery_goes_with_a_model_by_what_a_classifier_has": [
        ("export", "by", ("probabilities", "embedding"))
    ],
    "commands.searching_test.test_an_index_beside_the_model_answers_without_a_gallery_and_without_this_package": [
        ("export", "by", ("features",))
    ],
    "commands.pretraining_test.test_every_method_runs_and_only_recovering_ones_report_recovery": [
        ("pretrain", "method", ("all", "jaccard", "self"))
    ],
    "system.choices_test.test_each_value_of_what_one_method_reads_has_losses_of_its_own": [
        ("pretrain", "cld_kernel", ("softmax", "negative", "printed")),
        ("pretrain", "average", ("pair", "anchor")),
    ],
    "system.choices_test.test_a_chain_runs_to_its_end_with_the_whole_network": [
        (binary, "backbone", SLOW) for binary in ("pretrain", "finetune")
    ],
    "commands.embedding_test.test_each_file_holds_what_the_network_makes_of_the_photos_that_it_names": [
        ("embed", "backbone", IMAGE_BACKBONES)
    ],
    "commands.finished_run_test.test_retrieval_is_that_of_the_representation_asked_for": [
        ("evaluate", "representation", ("probabilities",))
    ],
    "commands.finished_run_test.test_raw_vectors_are_searched_as_scikit_learn_standardises_them": [
        ("evaluate", "representation", ("raw",))
    ],
    "commands.exporting_test.test_the_card_says_what_quantisation_costs": [("export", "quantize", ("float16", "int8"))],
    "commands.predicting_test.test_a_table_says_the_same_as_json": [("predict", "format", ("jsonl", "csv"))],
    "commands.searching_test.test_a_pretraining_searches_by_its_embedding": [
        ("search", "by", ("embedding", "features"))
    ],
    "commands.searching_test.test_the_nearest_photos_are_those_of_the_model": [("search", "by", ("probabilities",))],
    "training.devices_test.test_two_workers_train_like_one_process": [
        ("pretrain", "strategy", ("multiworker",)),
        ("finetune", "strategy", ("multiworker",)),
    ],
}
RUN_ELSEWHERE = {
    (binary, name, value) for given in ELSEWHERE.values() for binary, name, values in given for value in values
}


def choices_of(config_class):
    """Values by flag."""
    fields = dataclasses.fields(config_class)
    return {field.name: field.metadata["choices"] for field in fields if field.metadata.get("choices")}


def kind_of(backbone):
    """The data of a chain."""
    return "vectors" if backbone == "mlp" else "images"


def fits(chain, binary, name, value):
    """Whether the chain can have this setting beside those that it has."""
    backbone = chain["pretrain"]["backbone"]
    if name == "augmentation" and (value == "mask") != (backbone == "mlp"):
        return False
    if value == "truth" and kind_of(backbone) != "images":  # the only ones with true distributions
        return False
    if name in READ_BY and chain[binary]["method"] not in READ_BY[name]:
        return False
    if value == "float16" and backbone not in LIGHT:  # slow on a processor, and first steps overflow in deep networks
        return False
    try:
        CONFIGS[binary](**chain[binary], **{name: value})
    except InputError:
        return False
    return True


def chains():
    """For each backbone the settings of each binary."""
    made = {
        backbone: {"pretrain": {"backbone": backbone}, "finetune": {"backbone": backbone}, "embed": {}}
        | {"evaluate": {"retrieval": True}}  # to which most of its choices belong
        for backbone in (*BY_DEFAULT, *SLOW)
    }
    every = [
        (binary, *choice) for binary, config_class in CONFIGS.items() for choice in choices_of(config_class).items()
    ]
    for shift, (binary, name, values) in enumerate(every):
        left = [value for value in values if (binary, name, value) not in RUN_ELSEWHERE]
        if not left:
            continue
        rotated = left[shift % len(left) :] + left[: shift % len(left)]
        for backbone, chain in made.items():
            if name == "backbone" or (binary in ("evaluate", "embed") and backbone not in LIGHT):
                continue
            # What has not been run yet comes first, then what was run longest ago.
            taken = next((value for value in rotated if fits(chain, binary, name, value)), None)
            if taken is not None:
                chain[binary][name] = taken
                rotated.append(rotated.pop(rotated.index(taken)))
    return made


CHAINS = chains()


def test_every_value_of_every_choice_has_a_chain():
    modules = (common_flags, flags, program_flags)
    classes = {each for module in modules for each in vars(module).values() if dataclasses.is_dataclass(each)}
    others = {"export": ExportConfig, "predict": PredictConfig, "search": SearchConfig}
    # A check has the choices of a pretraining, an app those of a search.
    same = {common_flags.TrainingConfig, CheckConfig, GalleryConfig, AppConfig}
    assert classes == {*CONFIGS.values(), *others.values(), *same}
    expected = {
        (binary, name, value)
        for binary, config_class in (CONFIGS | others).items()
        for name, values in choices_of(config_class).items()
        for value in values
    }
    run = {
        (binary, name, value)
        for backbone in BY_DEFAULT
        for binary, given in CHAINS[backbone].items()
        for name, value in given.items()
    }
    assert expected - run == RUN_ELSEWHERE
    for place in ELSEWHERE:
        module, _, test = place.rpartition(".")
        assert callable(getattr(importlib.import_module(f"tests.{module}"), test)), place


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Settings of the data by their kind."""
    folder = tmp_path_factory.mktemp("data")
    vectors = write_npz(tiny_vectors(sizes=SIZES), folder / "vectors")
    images = write_npz(tiny_images((32, 32, 3), SIZES), folder / "images")
    return {
        "vectors": {"dataset": "npz", "data_dir": str(vectors)},
        "images": {"dataset": "npz", "data_dir": str(images)},
    }


@pytest.fixture
def shallow(monkeypatch):
    """Networks with one block in each stage and two in one of them: every kind of layer, at a fraction of the time."""
    stack = resnet.stack_residual_blocks_v1

    def short_stack(x, filters, blocks, **options):
        return stack(x, filters, 2 if options["name"] == "conv2" else 1, **options)

    monkeypatch.setattr(resnet, "stack_residual_blocks_v1", short_stack)
    block = mobilenet_v2._inverted_res_block

    def block_of_another_kind(x, **options):
        """Of the blocks with a way past them only the first, number 2."""
        repeated = options["stride"] == 1 and x.shape[-1] == options["filters"] and options["block_id"] > 2
        return x if repeated else block(x, **options)

    monkeypatch.setattr(mobilenet_v2, "_inverted_res_block", block_of_another_kind)
    for network in convnext.MODEL_CONFIGS.values():
        monkeypatch.setitem(network, "depths", [2, 1, 1, 1])
    for stages in efficientnet_v2.DEFAULT_BLOCKS_ARGS.values():
        for number, stage in enumerate(stages):
            monkeypatch.setitem(stage, "num_repeat", 2 if number == 3 else 1)  # the first of the later kind of block
    stages = tuple(
        stage._replace(repeats=2 if number == 1 else 1) for number, stage in enumerate(efficientnet_lite.STAGES)
    )
    monkeypatch.setattr(efficientnet_lite, "STAGES", stages)
    for name, network in RESIDUAL_NETWORKS.items():
        blocks = (network.blocks[0], *(1 for _ in network.blocks[1:]))
        monkeypatch.setitem(RESIDUAL_NETWORKS, name, network._replace(blocks=blocks))


def run_chain(backbone, data, folder, capsys):
    """Through the binaries' own entry points; what one of them leaves is held against what another reads."""
    chain, source = CHAINS[backbone], data[kind_of(backbone)]
    dataset = load_dataset(source["dataset"], data_dir=source["data_dir"])
    before, tuned = str(folder / "before"), str(folder / "tuned")
    pretrain(PretrainConfig(**source, **SMALL, **chain["pretrain"], queue_size=8, workdir=before))
    finetune(FinetuneConfig(**source, **SMALL, **chain["finetune"], pretrained=before, workdir=tuned))
    summary = RunDirectory(tuned).read_summary()
    assert (summary["backbone"], summary["label_names"]) == (backbone, list(dataset.label_names))
    assert summary["method"] == chain["pretrain"]["method"]
    if backbone in LIGHT:
        assert_searched_and_embedded(chain, dataset, before, tuned, folder)
    evaluate(EvaluateConfig(workdir=tuned, output=str(folder / "results.json")))
    results = json.loads((folder / "results.json").read_text())
    assert results["test"] == pytest.approx(summary["test"], abs=1e-6)
    served = folder / "tuned" / "saved_model"
    if backbone in LIGHT:
        served = folder / "model"
        export(ExportConfig(workdir=tuned, output=str(served)))
    assert_served(served, dataset, folder, capsys)


def assert_searched_and_embedded(chain, dataset, before, tuned, folder):
    evaluate(EvaluateConfig(workdir=before, neighbours=3, **chain["evaluate"]))
    result = json.loads((folder / "before" / "retrieval.json").read_text())
    assert result | chain["evaluate"] == result | {"retrieval": True}
    assert 0 < result["results"]["mAP"]["value"] <= 1
    split = chain["evaluate"]["split"]
    evaluate(EvaluateConfig(workdir=tuned, split=split, output=str(folder / "results.json")))
    results = json.loads((folder / "results.json").read_text())
    assert 0 < results["val" if split == "validation" else split]["mAP"] <= 1
    split = chain["embed"]["split"]
    for workdir in (before, tuned):
        embed(EmbedConfig(workdir=workdir, split=split, output=str(folder / "embedded.npz")))
        embedded = np.load(folder / "embedded.npz")
        np.testing.assert_array_equal(embedded["labels"], dataset.splits[split].labels)
        assert np.isfinite(embedded["features"]).all()
        assert len(embedded["features"]) == SIZES[split]


def assert_served(model, dataset, folder, capsys):
    capsys.readouterr()
    predict(PredictConfig(saved_model=str(model)), files_of(dataset.splits["test"].inputs, folder))
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    served = [[record["probabilities"][name] for name in dataset.label_names] for record in records]
    outputs = np.load(folder / "tuned" / "test_outputs.npz")
    np.testing.assert_allclose(served, outputs["probabilities"], atol=1e-5)
    assert np.isfinite(outputs["embedding"]).all()


def files_of(inputs, folder):
    """Samples as the files that `predict` takes."""
    if inputs.ndim == 2:
        np.save(folder / "vectors.npy", inputs)
        return [str(folder / "vectors.npy")]
    files = [str(folder / f"{number}.png") for number in range(len(inputs))]
    for file, image in zip(files, inputs, strict=True):
        Image.fromarray(image).save(file)
    return files


@pytest.mark.parametrize("backbone", BY_DEFAULT)
@pytest.mark.usefixtures("shallow", "without_graph_optimisation")
def test_a_chain_runs_to_its_end(backbone, data, tmp_path, capsys):
    run_chain(backbone, data, tmp_path, capsys)


@pytest.mark.usefixtures("without_graph_optimisation")
@pytest.mark.parametrize(("method", "name"), [("cld", "cld_kernel"), ("mulsupcon", "average")])
def test_each_value_of_what_one_method_reads_has_losses_of_its_own(method, name, data, tmp_path):
    values, losses = choices_of(PretrainConfig)[name], set()
    for value in values:
        run = RunDirectory(tmp_path / value)
        pretrain(
            PretrainConfig(
                **data["vectors"], **SMALL, method=method, **{name: value}, queue_size=8, workdir=str(run.path)
            )
        )
        losses.add(run.epochs()[0]["loss"])
    assert len(losses) == len(values) and np.isfinite([*losses]).all()


@pytest.mark.slow
@pytest.mark.usefixtures("shallow", "without_graph_optimisation")
def test_a_deep_network_whose_first_steps_overflow_float16_goes_on_to_learn(data, tmp_path):
    settings = {"backbone": "resnet50", "mixed_precision": "float16", "max_bad_steps": 1, "bce_weight": 1.0}
    run = RunDirectory(tmp_path / "run")
    pretrain(PretrainConfig(**data["images"], **settings, epochs=5, batch_size=8, queue_size=8, workdir=str(run.path)))
    records = run.epochs()
    assert records[0]["bad_steps"] > 0
    assert records[-1]["bad_steps"] == 0
    assert np.isfinite([record["loss"] for record in records if "loss" in record]).all()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", dict.fromkeys(["efficientnet-lite0", *APPLICATIONS, *SLOW]))
def test_a_chain_runs_to_its_end_with_the_whole_network(backbone, data, tmp_path, capsys):
    run_chain(backbone, data, tmp_path, capsys)


@pytest.fixture(scope="module")
def tuned(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    finetune(FinetuneConfig(**data["vectors"], **SMALL, workdir=str(folder)))
    return folder


@pytest.mark.parametrize("export_format", choices_of(ExportConfig)["format"])
def test_a_model_is_exported_in_every_format(export_format, tuned, tmp_path, capsys):
    if export_format == "onnx":
        pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    export(ExportConfig(workdir=str(tuned), output=str(tmp_path / "model"), format=export_format))
    assert str(tmp_path / "model") in capsys.readouterr().out
    files = {"saved_model": "saved_model.pb", "onnx": "model.onnx", "litert": "model.tflite"}
    assert (tmp_path / "model" / files[export_format]).stat().st_size > 1000
    assert "features" in (tmp_path / "model" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("by", ["probabilities", "embedding"])
def test_a_gallery_goes_with_a_model_by_what_a_classifier_has(by, tuned, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", tiny_vectors(sizes=SIZES).splits["test"].inputs)
    config = ExportConfig(workdir=str(tuned), output=str(tmp_path / "model"), gallery=str(tmp_path / "rows.npy"), by=by)
    if by == "embedding":
        with pytest.raises(InputError, match="must be one of probabilities, features for a classifier"):
            export(config)
        assert not (tmp_path / "model").exists()
        return
    export(config)
    capsys.readouterr()
    search(SearchConfig(saved_model=str(tmp_path / "model"), neighbours=3), [str(tmp_path / "rows.npy")])
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(record["nearest"]) for record in records] == [3] * SIZES["test"]
