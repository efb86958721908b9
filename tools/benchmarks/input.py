"""How fast image files become batches of view pairs, and what memory that takes.

  python -m tools.benchmarks.input --workdir=/tmp/benchmark                    # 20,000 images, about 3 GB of disk
  python -m tools.benchmarks.input --workdir=/tmp/benchmark --images=2000      # a quick look

Writes JPEGs of COCO's size once, then measures in alternation, each in a process of its own as a training would be:
decoding alone (`tf.io.decode_jpeg`, parallel), and `training_batches` with two views for each augmentation and size, from
files and from `--cache`. One row a setting: source images per second, the share of decoding alone in the same round, images
per second of processor time (which other work on the machine disturbs less) and resident memory. The same as JSON in
`WORKDIR/input.json`.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import os
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm

from mulsupcon_tf.config.command_line import run_binary
from mulsupcon_tf.config.fields import Validated, flag, require
from mulsupcon_tf.utils import atomic_file

SETTINGS = {f"{name}, {size} px": (name, size) for name, size in itertools.product(("simple", "simclr"), (64, 224))}
FIRST = next(iter(SETTINGS))
CACHED = f"{FIRST}, cached"
DECODING = "decoding alone"
WARM_UP = 3.0  # seconds in which tf.data finds out how many images to read at the same time
# Octaves of the noise that the pictures are made of: side of the smallest detail in pixels, and its strength. Nature's
# fall off with the frequency; these make JPEGs of quality 90 about as large as COCO's.
OCTAVES = ((256, 48.0), (128, 36.0), (64, 26.0), (32, 18.0), (16, 13.0), (8, 10.0), (4, 9.0), (2, 8.0), (1, 5.5))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(Validated):
    """Settings of `tools/benchmarks/input.py`."""

    workdir: str = flag(None, "Folder of the images and of input.json. Required.", path=True)
    images: int = flag(20_000, "Images to write, where they are not there yet, and to read.", minimum=64)
    batch_size: int = flag(32, "Images in a batch.", minimum=2)
    seconds: float = flag(8.0, "Time of one measurement.", above=0)
    rounds: int = flag(5, "Measurements of each setting.", minimum=1)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One setting in one round; memory in MiB."""

    images_per_second: float
    images_per_processor_second: float
    least_memory: float
    most_memory: float


def main(settings: BenchmarkConfig) -> None:
    """Writes the images, measures, prints the table."""
    require(settings, "workdir")
    folder = pathlib.Path(settings.workdir)
    paths = write_images(folder / "images", settings.images)
    rows = _measure_in_turn((DECODING, *SETTINGS), paths, settings)
    steps = len(paths) // settings.batch_size
    epoch = _measure_in_new_process(FIRST, paths, settings, steps)
    rows += _measure_in_turn((DECODING, CACHED), paths, settings, rounds=1)[1:]
    result = {
        "images": len(paths),
        "mean_bytes": statistics.fmean(os.path.getsize(path) for path in paths),  # noqa: PTH202 paths are text here
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "rows": rows,
        "epoch": {"setting": FIRST, "steps": steps} | dataclasses.asdict(epoch),
    }
    atomic_file.write_text(folder / "input.json", json.dumps(result, indent=2) + "\n")
    print(_table(result))


def write_images(folder: pathlib.Path, count: int) -> list[str]:
    """Makes the first `count` pictures, those that are there excepted; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.jpg" for number in range(count)]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    if missing:
        with concurrent.futures.ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            written = pool.map(_write_image, missing, [paths[number] for number in missing], chunksize=16)
            for _ in tqdm.tqdm(written, total=len(missing), desc="writing images", unit="image"):
                pass
    return [str(path) for path in paths]


def _write_image(number: int, path: pathlib.Path) -> None:
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(number)
    width, height = (640, 480) if rng.random() < 0.75 else (480, 640)
    strength = np.exp(rng.normal(scale=0.35))  # some pictures are rich in detail, some are not
    light, colours = np.zeros((height, width), np.float32), np.zeros((height, width, 3), np.float32)
    for detail, amplitude in OCTAVES:
        rough = (max(2, width // detail), max(2, height // detail))

        def noise(rough=rough) -> np.ndarray:
            coarse = Image.fromarray(rng.standard_normal(rough[::-1], np.float32))
            return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))

        light += (amplitude * strength if detail < 32 else amplitude) * noise()
        if detail >= 64:
            colours += 0.5 * amplitude * np.stack([noise() for _ in range(3)], axis=-1)
    picture = Image.fromarray((128 + light[..., None] + colours).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 8)):  # things with edges
        left, top = rng.integers(0, width - 40), rng.integers(0, height - 40)
        box = [left, top, left + rng.integers(20, 200), top + rng.integers(20, 200)]
        draw.ellipse([int(side) for side in box], outline=tuple(map(int, rng.integers(0, 256, 3))), width=6)
    temporary = path.with_name(f".partial-{path.name}")
    picture.save(temporary, quality=90)
    temporary.replace(path)


def _measure_in_turn(
    names: Sequence[str], paths: list[str], settings: BenchmarkConfig, rounds: int | None = None
) -> list[dict]:
    """One row a name; shares are those of the first name in the same round."""
    measured: dict[str, list[Measurement]] = {name: [] for name in names}
    for _ in range(rounds or settings.rounds):
        for name in names:
            measured[name].append(_measure_in_new_process(name, paths, settings))
    first = next(iter(measured.values()))
    return [_summary(name, measurements, first) for name, measurements in measured.items()]


def _measure_in_new_process(
    name: str, paths: list[str], settings: BenchmarkConfig, steps: int | None = None
) -> Measurement:
    """Where a process's memory happens to lie moves its speed; one process for all would be one draw."""
    new = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=new) as process:
        return process.submit(_measure, name, paths, settings, steps).result()


def _measure(name: str, paths: list[str], settings: BenchmarkConfig, steps: int | None = None) -> Measurement:
    """Reads batches for the time of a measurement, or a number of steps, after some that are not counted."""
    batches = _batches(name, paths, settings.batch_size)
    start, warm = time.perf_counter(), min(WARM_UP, settings.seconds)
    while time.perf_counter() - start < warm:
        next(batches)
    done, memory = 0, [_resident_memory()]
    start, processor_start = time.perf_counter(), time.process_time()
    while done < steps if steps is not None else time.perf_counter() - start < settings.seconds:
        next(batches)
        done += 1
        memory.append(_resident_memory())
    passed, worked = time.perf_counter() - start, time.process_time() - processor_start
    images = done * settings.batch_size
    return Measurement(images / passed, images / worked, min(memory), max(memory))


def _batches(name: str, paths: list[str], batch_size: int) -> Iterator:
    """What is measured under a name."""
    import tensorflow as tf

    from mulsupcon_tf.datasets.base import ImageFiles, MultiLabelDataset, Split
    from mulsupcon_tf.input_pipeline.batches import training_batches
    from mulsupcon_tf.input_pipeline.cache import with_decoded_cache

    if name == DECODING:
        files = tf.data.Dataset.from_tensor_slices(paths).repeat()
        shapes = files.map(
            lambda path: tf.shape(tf.io.decode_jpeg(tf.io.read_file(path), channels=3)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return iter(shapes.batch(batch_size).prefetch(2))
    augmentation, size = SETTINGS[FIRST if name == CACHED else name]
    split = Split(ImageFiles(np.array(paths, object)), np.ones((len(paths), 1), np.uint8))
    few = Split(split.inputs[:64], split.labels[:64])
    dataset = MultiLabelDataset("csv", "image", ("picture",), {"train": split, "validation": few, "test": few})
    if name == CACHED:
        dataset = with_decoded_cache(dataset, size)
    return iter(
        training_batches(
            dataset, batch_size=batch_size, num_views=2, augmentation=augmentation, image_size=size, seed=0
        )
    )


def _resident_memory() -> float:
    pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _summary(name: str, measurements: list[Measurement], decoding: list[Measurement]) -> dict:
    pairs = list(zip(measurements, decoding, strict=True))
    return {
        "setting": name,
        "images_per_second": statistics.median(one.images_per_second for one in measurements),
        "share_of_decoding": statistics.median(one.images_per_second / base.images_per_second for one, base in pairs),
        "images_per_processor_second": statistics.median(one.images_per_processor_second for one in measurements),
        "processor_share_of_decoding": statistics.median(
            one.images_per_processor_second / base.images_per_processor_second for one, base in pairs
        ),
        "least_memory": min(one.least_memory for one in measurements),
        "most_memory": max(one.most_memory for one in measurements),
    }


def _table(result: dict) -> str:
    lines = [
        f"{result['images']} JPEGs of {result['mean_bytes'] / 1024:.0f} KiB, {result['processors']} processors, load {result['load']:.1f}",
        "",
        "| two views | images/s | of decoding | images/s of processor time | of decoding | resident MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['setting']} | {row['images_per_second']:.0f} | {row['share_of_decoding']:.2f} "
            f"| {row['images_per_processor_second']:.0f} | {row['processor_share_of_decoding']:.2f} "
            f"| {row['least_memory']:.0f}-{row['most_memory']:.0f} |"
        )
    epoch = result["epoch"]
    lines += [
        "",
        f"A whole epoch of {epoch['setting']}: {epoch['images_per_second']:.0f} images/s, resident "
        f"{epoch['least_memory']:.0f}-{epoch['most_memory']:.0f} MiB.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_binary(BenchmarkConfig, main, usage=__doc__)
