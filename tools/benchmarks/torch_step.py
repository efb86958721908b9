"""The same training step in PyTorch, to see beside ours what a machine can do: `python torch_step.py resnet50 224 64 4096 bfloat16`.

A query encoder with AdamW and a key encoder that follows it, heads, a queue that is full, the contrastive loss of keys by the
labels that they share, and cross-entropy beside it; channels last, as PyTorch is fastest. One batch, in memory. Prints a line
of JSON for each figure. It needs PyTorch alone, nothing of this package or of TensorFlow.
"""

import copy
import json
import sys
import time

import torch
from torch import nn
from torch.nn import functional

NUM_LABELS, EMBEDDING, TEMPERATURE, MOMENTUM = 80, 128, 0.1, 0.999
# Widths and blocks of the stages, whether blocks have bottlenecks, and whether the stem is that for photographs.
NETWORKS = {
    "resnet8": ((32, 64, 128), (1, 1, 1), False, False),
    "resnet18": ((64, 128, 256, 512), (2, 2, 2, 2), False, True),
    "resnet50": ((64, 128, 256, 512), (3, 4, 6, 3), True, True),
}
ROUNDS = 3
ON_A_GPU = 8  # steps of a round; on a processor one


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution and its normalisation."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Convolutions beside a shortcut.

    Args:
        inputs: channels of its input.
        width: of its convolutions of 3 x 3.
        stride: of the first convolution.
        bottleneck: 1 x 1, 3 x 3, 1 x 1 with four times the width at the end; else twice 3 x 3.
    """

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool):
        super().__init__()
        outputs = 4 * width if bottleneck else width
        sizes = [(width, 1), (width, 3), (outputs, 1)] if bottleneck else [(width, 3), (width, 3)]
        parts, before = [], inputs
        for place, (channels, size) in enumerate(sizes):
            parts += [convolution(before, channels, size, stride if place == 0 else 1), nn.ReLU(inplace=True)]
            before = channels
        self.body = nn.Sequential(*parts[:-1])
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

    def forward(self, x):
        """`[B, channels, H, W]` to the same with the block's channels and stride."""
        return functional.relu(self.body(x) + self.shortcut(x))


class Encoder(nn.Module):
    """A residual network and the projection head on it.

    Args:
        name: one of `NETWORKS`.
    """

    def __init__(self, name: str):
        super().__init__()
        widths, blocks, bottleneck, photographs = NETWORKS[name]
        layers = [convolution(3, widths[0], 7 if photographs else 3, 2), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(3, 2, 1)] if photographs else []
        inputs = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for number in range(count):
                layers.append(Block(inputs, width, 2 if stage and not number else 1, bottleneck=bottleneck))
                inputs = 4 * width if bottleneck else width
        self.backbone, self.num_features = nn.Sequential(*layers), inputs
        self.head = nn.Sequential(
            nn.Linear(inputs, 256), nn.BatchNorm1d(256), nn.ReLU(inplace=True), nn.Linear(256, EMBEDDING)
        )

    def forward(self, images):
        """Images `[B, 3, H, W]` to features `[B, R]` and unit embeddings `[B, D]` in float32."""
        features = self.backbone(images).mean((2, 3))
        return features, functional.normalize(self.head(features).float(), dim=1)


class Step:
    """Query encoder, key encoder, queue, optimizer and a batch; called, it trains one step and gives its loss.

    Args:
        name: one of `NETWORKS`.
        size: side of the images in pixels.
        batch: B.
        queue: Q.
        precision: "float32", "bfloat16", or "float16" with its loss scaled.
    """

    def __init__(self, name: str, size: int, batch: int, queue: int, precision: str):
        torch.manual_seed(0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = None if precision == "float32" else getattr(torch, precision)
        self.query = Encoder(name).to(self.device, memory_format=torch.channels_last)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.classifier = nn.Linear(self.query.num_features, NUM_LABELS, device=self.device)
        trained = [*self.query.parameters(), *self.classifier.parameters()]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=self.device == "cuda")
        self.scaler = torch.amp.GradScaler(self.device, enabled=precision == "float16")
        views = [torch.rand(batch, 3, size, size, device=self.device) * 2 - 1 for _ in range(2)]
        self.views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        self.labels = (torch.rand(batch, NUM_LABELS, device=self.device) < 3 / NUM_LABELS).float()
        self.keys = functional.normalize(torch.randn(queue, EMBEDDING, device=self.device), dim=1)
        self.key_labels = self.labels[torch.randint(0, batch, (queue,), device=self.device)]
        self.place = 0

    def __call__(self) -> torch.Tensor:
        """Trains a step and gives its loss."""
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            with torch.no_grad():
                torch._foreach_lerp_(list(self.key.parameters()), list(self.query.parameters()), 1 - MOMENTUM)
                own = self.key(self.views[1])[1]
            features, queries = self.query(self.views[0])
            logits = self.classifier(features)
        keys, key_labels = torch.cat([own, self.keys]), torch.cat([self.labels, self.key_labels])
        log_shares = functional.log_softmax(queries @ keys.T / TEMPERATURE, dim=1)
        positives = self.labels @ key_labels.T
        contrast = -(positives * log_shares).sum() / positives.sum().clamp(min=1)
        loss = contrast + functional.binary_cross_entropy_with_logits(logits.float(), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        places = (self.place + torch.arange(len(own), device=self.device)) % len(self.keys)
        self.keys[places], self.key_labels[places] = own, self.labels
        self.place = (self.place + len(own)) % len(self.keys)
        return loss.detach()


def main(name: str, size: str, batch: str, queue: str, precision: str) -> None:
    """Measures the step."""
    step = Step(name, int(size), int(batch), int(queue), precision)

    def report(figure: str, values: list) -> None:
        print(json.dumps({"setting": f"torch-{precision}", "figure": figure, "values": values}), flush=True)

    report("versions", [torch.__version__, torch.cuda.get_device_name() if step.device == "cuda" else "cpu"])
    report("losses of the first steps", [float(step()) for _ in range(5)])
    count = ON_A_GPU if step.device == "cuda" else 1
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(count):
            loss = step()
        float(loss)  # waits for the device
        report(f"{name} {size} px, samples/s", [count * int(batch) / (time.perf_counter() - start)])


if __name__ == "__main__":
    main(*sys.argv[1:])
