"""Times a checkout of MulSupCon as it is, and pytorch-metric-learning's SupCon; started by peer.py.

Runs in the Python that has what they need. Nothing of theirs is changed but that `.cuda()` stays on the CPU.
"""

import ctypes
import importlib.util
import os
import pathlib
import sys
import types

import numpy as np
import torch

from tools.benchmarks.worker import serve

torch.set_num_threads(len(os.sched_getaffinity(0)))
try:
    import torchvision  # noqa: F401
except (ImportError, RuntimeError):  # imported by the checkout for images alone
    sys.modules["torchvision"] = types.SimpleNamespace(transforms=None)
torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *arguments: self


def loss_candidates(arrays: dict[str, np.ndarray]) -> dict:
    """The losses on the batch and keys of a file, forward and backward."""
    import losses
    import utils

    queries = torch.from_numpy(arrays["queries"]).requires_grad_()
    keys, labels, key_labels = (torch.from_numpy(arrays[name]) for name in ("keys", "labels", "key_labels"))
    pair_up = utils.get_output_func(pattern="MulSupCon", with_weight=True)
    criterion = losses.WeightedSupCon(temperature=0.1)

    def theirs():
        queries.grad = None
        loss = criterion(*pair_up(labels, key_labels, torch.einsum("bd,dk->bk", [queries, keys.T])))
        loss.backward()
        return loss.item()

    found = {"loss": theirs}
    if importlib.util.find_spec("pytorch_metric_learning") is None:
        return found
    from pytorch_metric_learning.losses import SupConLoss

    single = torch.from_numpy(arrays["labels"].argmax(1)), torch.from_numpy(arrays["key_labels"].argmax(1))
    supcon = SupConLoss(temperature=0.1)

    def metric_learning():
        queries.grad = None
        loss = supcon(queries, single[0], ref_emb=keys, ref_labels=single[1])
        loss.backward()
        return loss.item()

    return found | {"SupCon": metric_learning}


def yeast_candidates(checkout: pathlib.Path, name: str) -> dict:
    """A pretraining step on yeast in the published configuration: with its loader, or on batches made at once."""
    import dataloader
    import losses
    import utils

    os.chdir(checkout / "codes")
    config = utils.parse_config("config/pretrain_yeast.yaml")
    transform, _ = utils.get_transform(is_image=False, **config["transform_kwargs"])

    def step_of(batches):
        output = utils.get_output_func(**config["pattern_args"])
        model, _, _ = utils.get_model_from_pretrain(model_path=None, config=config, output_func=output)
        criterion = getattr(losses, config["criterion"])(**config["criterion_args"])
        rates = config["optimizer_args"]
        optimizer = getattr(torch.optim, config["optimizer"])(model.get_config_optim(rates["lr"], 1), **rates)

        def step():
            views, labels = next(batches)
            model.train()
            loss = criterion(*model(views.cuda(0), labels.cuda(0)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    if name == "maths alone":
        return {name: step_of(_batches_at_once(dataloader.TrainVectorDataset(config["train"]), config))}
    loader = dataloader.create_dataloader(
        input_h5=config["train"],
        indices=utils.parse_data(config["train"]),
        is_eval=False,
        transform=transform,
        is_image=False,
        **config["dataloader_args"],
    )
    return {name: step_of(iter(loader))}


def _batches_at_once(whole, config):
    features = torch.from_numpy((whole.feature - whole.feature.mean(0)) / whole.feature.std(0))
    while True:
        rows = torch.randint(len(features), (config["dataloader_args"]["batch_size"],))
        views = features[rows][:, None].repeat(1, 2, 1)
        yield views * (torch.rand_like(views) > config["transform_kwargs"]["p"]), whole.targets[rows]


def extra_memory(step) -> float:
    """MiB of resident memory that a step takes at its peak."""
    step()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _memory("VmRSS")
    step()
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    lines = pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    directory, what, *rest = sys.argv[1:]
    sys.path.insert(0, str(pathlib.Path(directory) / "codes"))
    made = (
        loss_candidates(dict(np.load(rest[0]))) if what == "loss" else yeast_candidates(pathlib.Path(directory), *rest)
    )
    serve(made, lambda name: extra_memory(made[name]))
