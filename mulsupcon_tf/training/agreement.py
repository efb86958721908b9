"""Whether workers that train together were given the same: settings, data, weights to start from, versions.

Each of them reads its own command line and its own files. What differs among them would not fail, it would train a
model of neither.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mulsupcon_tf.config.fields import as_texts
from mulsupcon_tf.datasets.base import MultiLabelDataset
from mulsupcon_tf.training.checkpoints import versions
from mulsupcon_tf.training.data_changes import differences, other_names, word_for_inputs
from mulsupcon_tf.training.devices import Devices
from mulsupcon_tf.training.run_directory import RunDirectory
from mulsupcon_tf.utils.atomic_file import sha256
from mulsupcon_tf.utils.errors import InputError

# Paths may differ from machine to machine; what lies there is compared.
_PATHS = ("workdir", "data_dir", "init_from", "pretrained", "backbone_weights", "feature_cache")
_ANY_VERSION = ("python",)  # nothing is computed by what its versions differ in


@dataclasses.dataclass(frozen=True)
class Account:
    """What one worker was given.

    Attributes:
        settings: resolved, as text by name; one that is None is left out.
        fingerprint: of the data.
        label_names: C names.
        inputs: what a message calls the inputs.
        weights: hash of what the model starts from, by setting.
        versions: of what computes, by name.
    """

    settings: Mapping[str, str]
    fingerprint: str
    label_names: Sequence[str]
    inputs: str
    weights: Mapping[str, str]
    versions: Mapping[str, str]

    @classmethod
    def of(cls, config: Any, dataset: MultiLabelDataset) -> "Account":
        """The account of this process.

        Args:
            config: resolved settings.
            dataset: as it was loaded.
        """
        return cls(
            settings={name: text for name, text in as_texts(vars(config)).items() if name not in _PATHS},
            fingerprint=dataset.fingerprint(),
            label_names=list(dataset.label_names),
            inputs=word_for_inputs(dataset),
            weights=_weights_of(config),
            versions={name: version for name, version in versions().items() if name not in _ANY_VERSION},
        )

    def differs_in(self, chiefs: "Account") -> list[str]:
        """What is different from the account of the chief, in words."""
        names = other_names(list(chiefs.label_names), list(self.label_names))
        data = differences(chiefs.fingerprint, self.fingerprint, names=names, inputs=self.inputs)
        found = [data] if data else []
        for name, here, there in _pairs(self.settings, chiefs.settings):
            found.append(f"{f'no --{name}' if here is None else f'--{name}={here}'}, not {there or 'none'}")
        found += [f"other weights in --{name}" for name, _, _ in _pairs(self.weights, chiefs.weights)]
        found += [f"{name} {here}, not {there}" for name, here, there in _pairs(self.versions, chiefs.versions)]
        return found


def _pairs(here: Mapping[str, str], there: Mapping[str, str]) -> list[tuple[str, str | None, str | None]]:
    """The names under which there are different texts, and both texts, None where there is none."""
    pairs = [(name, here.get(name), there.get(name)) for name in sorted(here.keys() | there.keys())]
    return [(name, mine, yours) for name, mine, yours in pairs if mine != yours]


def _weights_of(config: Any) -> dict[str, str]:
    """What the model starts from, by setting: a hash of the files, or the word for weights that have no path."""
    starts = {name: getattr(config, name, None) for name in ("init_from", "pretrained", "backbone_weights")}
    hashes = {}
    for name, start in starts.items():
        if start:
            run = RunDirectory(start)
            files = (run.path, run.encoder_weights, run.head, run.keras_model, run.summary_file)
            hashes[name] = " ".join(sha256(path) for path in files if path.is_file()) or start
    return hashes


@contextlib.contextmanager
def told_to_all(devices: Devices) -> Iterator[None]:
    """What is done before `require_agreement`: where it fails, the other workers hear of it there and end too.

    Args:
        devices: all workers must enter this, and call `require_agreement` afterwards.
    """
    try:
        yield
    except Exception as error:
        with contextlib.suppress(ConnectionError), devices.lost_as_connection_error():
            devices.gather_texts(json.dumps({"failure": str(error)}))
            devices.part()
        raise


def require_agreement(devices: Devices, config: Any, dataset: MultiLabelDataset) -> None:
    """Ends all workers, each with the same line, unless they were given the same. Call it before a model is built.

    Args:
        devices: all workers must call this.
        config: resolved settings.
        dataset: as it was loaded.

    Raises:
        InputError: a worker differs from the chief, or has failed in `told_to_all`.
    """
    if devices.num_workers == 1:
        return
    told = list(map(json.loads, devices.gather_texts(json.dumps(dataclasses.asdict(Account.of(config, dataset))))))
    for number, each in enumerate(told):
        if "failure" in each:
            devices.part()
            raise InputError(f"All workers must begin. Received: worker {number} ended with: {each['failure']}")
    chiefs, *others = (Account(**each) for each in told)
    found = [
        f"worker {number} with {'; '.join(differing)}"
        for number, account in enumerate(others, start=1)
        if (differing := account.differs_in(chiefs))
    ]
    if found:
        devices.part()
        raise InputError(
            f"Workers that train together must have the settings and data of worker 0. Received: {', and '.join(found)}"
        )
