"""Flag files, TF_CONFIG and the settings of Keras, whole and damaged, against plain readings of their text."""

import dataclasses
import json
import random
import re
import sys
import typing

import pytest

from mulsupcon_tf.config.command_line import config_of, flag_values
from mulsupcon_tf.config.fields import as_flag_lines, from_flag_values
from mulsupcon_tf.config.flags import FinetuneConfig, PretrainConfig
from mulsupcon_tf.training.cluster import Cluster, read_cluster
from mulsupcon_tf.training.run_directory import read_flags
from mulsupcon_tf.utils.keras_settings import require_tensorflow
from tests.campaign.inputs import SCALES, campaign, chosen, damaged, put, reading_of, with_lines_moved

TEXTS = (
    "runs/a",
    "a b",
    "Übung",
    "x=y",
    "日本",
    "#1",
    "~x/y",
    "--seed=3",
    "imagenet",
    "0.5",
    "paper",
    "\u2028z",
    "last",
    ";",
)
NODES = (
    None,
    True,
    -1,
    0,
    1,
    0.5,
    1e999,
    "0",
    " 1",
    "x",
    "a:1",
    "",
    [],
    {},
    ["a:1"],
    [1],
    {"a:1": 0},
    "9" * 5000,
    "a\nb:1",
)


def value_of(field, kind, random_: random.Random):
    """One that the field may have."""
    limits = field.metadata
    if limits.get("choices"):
        return random_.choice(limits["choices"])
    least = limits.get("minimum") if limits.get("minimum") is not None else limits.get("above")
    if kind is bool:
        return random_.random() < 0.5
    if kind is int:
        return random_.randint(int(least or 0), 100)
    if kind is float:
        number = random_.choice((0.1, 1 / 3, 0.5, 1.0, 1e-7, 2.5))
        number = min(max(number, least or 0), limits.get("maximum") or number)
        return number / 4 if limits.get("below") is not None else number
    return random_.choice(TEXTS)


def kinds_of(config_class) -> dict[str, type]:
    hints = typing.get_type_hints(config_class)
    return {
        name: next(part for part in (typing.get_args(hint) or (hint,)) if part is not type(None))
        for name, hint in hints.items()
    }


def case(random_: random.Random):
    """A kind of settings, values of some, and the lines of a flag file that gives them."""
    config_class = random_.choice((PretrainConfig, FinetuneConfig))
    kinds = kinds_of(config_class)
    fields = chosen(random_, dataclasses.fields(config_class), 12)
    values = {field.name: value_of(field, kinds[field.name], random_) for field in fields}
    lines = []
    for name, value in values.items():
        dashes = random_.choice(("--", "--", "-"))
        if isinstance(value, bool):
            lines.append(random_.choice((f"{dashes}{'' if value else 'no'}{name}", f"--{name}={str(value).lower()}")))
        elif random_.random() < 0.1 and str(value).isprintable() and str(value)[0] != "#":
            lines += [f"{dashes}{name}", str(value)]
        else:
            lines.append(f"{dashes}{name}={value}")
        if random_.random() < 0.2:
            lines.append(random_.choice(("", "# --seed=7", "// a comment", "   ")))
    if random_.random() < 0.2:
        lines = ["--seed=9", *lines] if "seed" in values else lines
    return config_class, values, lines


def read_plainly(text: str, config_class):
    """The values that a flag file gives; KeyError or ValueError where it gives none."""
    kinds = kinds_of(config_class)
    values = {}
    lines = iter([line.strip() for line in text.split("\n") if line.strip() and not line.startswith(("#", "//"))])
    for line in lines:
        match = re.fullmatch(r"--?(\w+)(?:=(.*))?", line, re.DOTALL)
        if match is None:
            raise ValueError(line)
        name, value = match[1], match[2]
        if name not in kinds and name.startswith("no") and value is None:
            values[name[2:]] = {True: False}[kinds[name[2:]] is bool]
        elif kinds[name] is bool:
            values[name] = (
                value is None
                or {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[value.lower()]
            )
        else:
            values[name] = kinds[name](next(lines) if value is None else value)
    return values


@pytest.mark.parametrize("times", SCALES)
def test_flag_files_give_the_settings_that_stand_in_them(tmp_path, times):
    def attempt(random_):
        config_class, values, lines = case(random_)
        text = random_.choice(("\n", "\r\n")).join([*lines, ""])
        path = tmp_path / "x.flags"
        put(path, text.encode(random_.choice(("utf-8", "utf-8-sig"))))
        expected, fault = reading_of(lambda: config_class(**values))
        found, refusal = reading_of(lambda: config_of(config_class, flag_values(config_class, [f"--flagfile={path}"])))
        assert (found, refusal) == (expected, fault), text
        if found is not None:
            put(path, "\n".join(as_flag_lines(found)) + "\n")
            assert from_flag_values(config_class, read_flags(path)) == found

    campaign("flag files", 40 * times, attempt)


@pytest.mark.parametrize("times", SCALES)
def test_damaged_flag_files_are_refused_or_give_what_stands_in_them(tmp_path, times):
    def attempt(random_):
        config_class, _, lines = case(random_)
        text = "\n".join(["--epochs=7", *lines, ""])
        content = (
            with_lines_moved(text, random_).encode() if random_.random() < 0.3 else damaged(text.encode(), random_)
        )
        path = tmp_path / "x.flags"
        put(path, content)
        found, refusal = reading_of(lambda: config_of(config_class, flag_values(config_class, [f"--flagfile={path}"])))
        if refusal is None:
            values = read_plainly(content.decode("utf-8-sig"), config_class)
            assert found == config_class(**values), content
        _, refusal = reading_of(lambda: from_flag_values(config_class, read_flags(path)))
        if refusal is None:
            text = content.decode(errors="replace").removesuffix("\n")
            assert read_flags(path) == dict(line[2:].split("=", 1) for line in text.split("\n")), content

    campaign("damaged flag files", 40 * times, attempt)


@pytest.mark.parametrize("times", SCALES)
def test_tf_config_gives_the_workers_or_is_refused(times):
    def attempt(random_):
        groups = {"chief": random_.randint(0, 1), "worker": random_.randint(1, 4), "ps": random_.randint(0, 1)}
        cluster = {
            name: [f"{name}-{number}.local:{2222 + number}" for number in range(count)]
            for name, count in groups.items()
        }
        cluster = {name: addresses for name, addresses in cluster.items() if addresses or random_.random() < 0.5}
        kind = random_.choice([name for name in ("chief", "worker") if cluster.get(name)])
        index = random_.randrange(len(cluster[kind]))
        content = {
            "cluster": cluster,
            "task": {"type": kind, "index": random_.choice((index, str(index)))},
            "environment": "cloud",
        }
        whole = Cluster(
            (*cluster.get("chief", []), *cluster["worker"]),
            index + (len(cluster.get("chief", [])) if kind == "worker" else 0),
        )
        assert read_cluster(json.dumps(content)) == whole
        accident = random_.choice(("bytes", "node", "node"))
        if accident == "node":
            place = random_.choice(
                (
                    content,
                    content["task"],
                    content["task"],
                    cluster,
                    random_.choice([each for each in cluster.values() if each]),
                )
            )
            place[random_.choice(list(place) if isinstance(place, dict) else range(len(place)))] = random_.choice(NODES)
        text = json.dumps(content)
        text = damaged(text.encode(), random_).decode(errors="replace") if accident == "bytes" else text
        found, refusal = reading_of(lambda: read_cluster(text))
        if refusal is None:
            content = json.loads(text)
            task, groups = content["task"], content["cluster"]
            first = groups.get("chief", []) + groups.get("master", [])
            addresses = first + groups.get("worker", [])
            number = int(task["index"]) + (len(first) if task["type"] == "worker" else 0)
            assert all(re.fullmatch(r"[^\s:]+:\d+", address) for address in addresses), text
            assert found == Cluster(tuple(addresses), number), text
            assert float(task["index"]) == int(task["index"]) and not isinstance(task["index"], bool), text

    campaign("TF_CONFIG", 50 * times, attempt)


@pytest.mark.parametrize("times", SCALES)
def test_keras_on_something_else_is_refused_before_it_is_imported(tmp_path, monkeypatch, times):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def attempt(random_):
        backend = random_.choice(("tensorflow", "jax", "torch", "Tensorflow", "", 5, None, [], "a\nb"))
        settings = {"backend": backend, "floatx": "float32"} if random_.random() < 0.8 else random_.choice(([], 5, {}))
        text = json.dumps(settings).encode()
        put(tmp_path / "keras.json", damaged(text, random_) if random_.random() < 0.3 else text)
        variable = random_.choice(("", "", "tensorflow", "jax", "x\ny"))
        monkeypatch.setenv("KERAS_BACKEND", variable)
        try:
            stored = json.loads((tmp_path / "keras.json").read_bytes())
        except ValueError:
            stored = {}
        known = stored.get("backend", "tensorflow") if isinstance(stored, dict) else "tensorflow"
        _, refusal = reading_of(require_tensorflow)
        assert (refusal is None) == ((variable or known) == "tensorflow"), (variable, text, refusal)

    campaign("settings of Keras", 30 * times, attempt)
