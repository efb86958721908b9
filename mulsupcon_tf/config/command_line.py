"""What the binaries share: flags made from a config class, one line for the user's mistakes, a quiet start.

Nothing here imports TensorFlow at module level, so that `--help` and a mistyped flag answer at once.
"""

import codecs
import contextlib
import dataclasses
import gc
import inspect
import io
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags
from absl import logging as absl_logging

from mulsupcon_tf.config.flag_files import with_flag_files
from mulsupcon_tf.utils import keras_settings
from mulsupcon_tf.utils.errors import InputError, TerminationError
from mulsupcon_tf.utils.sigterm import end_at_sigterm

# Keras imports these where they are installed, for its scikit-learn wrappers and its picture galleries.
_KERAS_EXTRAS = ("sklearn", "matplotlib")
HELP_FLAGS = ("--help", "-help", "-h", "--helpshort")


def define_flags(config_class: type, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one absl flag for each field of a config dataclass: its name, type, default, choices and help."""
    definers: dict[type, Callable[..., Any]] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        define = definers[_plain_type(hints[field.name])]
        define(field.name, field.default, _description(field), flag_values=flag_values)


def _description(field: dataclasses.Field) -> str:
    choices = field.metadata.get("choices")
    return field.metadata["help"] + (f" One of: {', '.join(choices)}." if choices else "")


def _plain_type(hint: Any) -> type:
    """`int` of `int | None`."""
    if isinstance(hint, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


def run_binary(config_class: type, main: Callable[..., None], *, usage: str | None, takes_files: bool = False) -> None:
    """Parses the command line into a config and calls `main(config)`; `main(config, files)` where files are taken.

    Exit status 1 and one line on standard error for whatever the user can mend.
    """
    end_at_sigterm()
    define_flags(config_class)

    def parse(argv: list[str]) -> list[str]:
        try:
            return flags.FLAGS([argv[0], *with_flag_files(argv[1:])])
        except (flags.Error, InputError) as error:
            stop(str(error))

    def start(argv: list[str]) -> None:
        logging.basicConfig(format="%(message)s", level=logging.ERROR, stream=sys.stderr, force=True)
        logging.getLogger("mulsupcon_tf").setLevel(logging.INFO)
        _print_any_name()
        with ending_in_one_line():
            if argv[1:] and not takes_files:
                raise InputError(f"Settings are given as --name=value. Received: {' '.join(argv[1:])}")
            config = config_of(config_class, flags.FLAGS)
            with _tensorflow_not_installed_as_one_line():
                main(config, argv[1:]) if takes_files else main(config)

    if any(argument in HELP_FLAGS for argument in sys.argv[1:]):
        with ending_in_one_line():
            print(f"{inspect.cleandoc(usage or '')}\n\n{_describe_flags(config_class)}")
        return
    app.run(start, flags_parser=parse)


def _print_any_name() -> None:
    """Of a file's name that is no UTF-8 the bytes come out as they went in; what another encoding lacks as its number."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        is_utf_8 = codecs.lookup(sys.stdout.encoding).name == "utf-8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf_8 else "backslashreplace")


@contextlib.contextmanager
def ending_in_one_line() -> Iterator[None]:
    """Ends the process with one line for whatever the user can mend, or somebody ordered, in the block."""
    try:
        yield
        print(end="", flush=True)  # a full disk may be met here only
    except InputError as error:
        stop(str(error))
    except BrokenPipeError:
        # Whoever reads has enough, as in `... | head`: no word about it, and a shell's status of a process that such a pipe ends.
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)  # Python writes once more at its end
        sys.exit(141)
    except OSError as error:
        stop(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except TerminationError as error:
        stop(str(error), status=error.exit_status)
    except KeyboardInterrupt:
        stop("Interrupted. The same command starts again, from the last checkpoint if there is one.", status=130)


def _describe_flags(config_class: type) -> str:
    lines = ["Flags:"]
    for field in dataclasses.fields(config_class):
        default = "" if field.default is None else f" (default: {field.default})"
        lines.append(f"  --{field.name}: {_description(field)}{default}")
    lines.append(
        "  --flagfile: Read flags from this file, or with @NAME from one of the package's (`mulsupcon` lists them); "
        "flags that come later win."
    )
    return "\n".join(lines)


@contextlib.contextmanager
def _tensorflow_not_installed_as_one_line() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "keras"):
            raise
        raise InputError(
            "TensorFlow is required: pip install '.[cpu]' or '.[gpu]' in the checkout. Received: none installed"
        ) from error


def stop(message: str, status: int = 1) -> typing.NoReturn:
    """Ends the process with one line on standard error."""
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(status)


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Makes imports of these packages fail, unless they are there already."""
    absent: dict[str, Any] = dict.fromkeys(set(packages) - sys.modules.keys())
    sys.modules |= absent  # None is how Python notes that a module is not to be found
    try:
        yield
    finally:
        for name in absent:
            sys.modules.pop(name, None)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """What is made in here is never garbage: it is left out of later collections too."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow without its start-up chatter: the C++ log level, and file descriptor 2 during the import.

    Keras has the settings of `keras_settings` then, whatever the environment and `keras.json` say.

    Half of the time of that import goes elsewhere: to packages that only wrappers and galleries of Keras need, and to
    the garbage collector, which looks again and again at what is there to stay. Both are kept out of it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    keras_settings.choose_tensorflow()
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
        try:
            with keras_settings.importing():
                first = "tensorflow" not in sys.modules  # else what has become garbage since would be kept
                with _without(*_KERAS_EXTRAS), _without_garbage_collection() if first else contextlib.nullcontext():
                    import tensorflow

                keras_settings.settle()
            tensorflow.get_logger().setLevel(logging.ERROR)
            absl_logging.set_verbosity(absl_logging.ERROR)
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def flag_values(config_class: type, arguments: Sequence[str], *, known_only: bool = False) -> flags.FlagValues:
    """The flags of a binary, as a command line sets them.

    Args:
        config_class: settings of the binary.
        arguments: of its command line; flag files among them are read.
        known_only: pass over flags that it does not have.

    Raises:
        InputError: a flag is unknown, a value is not one of it, or a flag file cannot be read.
    """
    values = flags.FlagValues()
    define_flags(config_class, flag_values=values)
    try:
        rest = values(["experiment", *with_flag_files(arguments)], known_only=known_only)[1:]
    except flags.Error as error:
        raise InputError(" ".join(str(error).split())) from None
    if rest and not known_only:
        raise InputError(f"Flags are given as --name=value. Received: {' '.join(rest)}")
    return values


def config_of(config_class: type, values: flags.FlagValues) -> Any:
    """The config of these flags, which `define_flags` defined for it.

    Raises:
        InputError: a value breaks a rule of the config.
    """
    return config_class(**{field.name: values[field.name].value for field in dataclasses.fields(config_class)})
