"""How much memory this process has taken, and may still take: of the machine, and of the container or job that it runs in."""

import contextlib
import os
import pathlib
import re
import resource
import sys
from collections.abc import Iterator
from typing import NamedTuple

_PROC = pathlib.Path("/proc")
_CONTROL_GROUPS = pathlib.Path("/sys/fs/cgroup")


class _Files(NamedTuple):
    """What a version of control groups calls its files, and what of a group's caches may be dropped."""

    limit: str
    used: str
    droppable: str


_VERSION_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Files("memory.max", "memory.current", "inactive_file")


def available_memory() -> int:
    """Bytes that may be used without swapping, as Linux reckons, or without being killed where a control group sets a limit.

    Slurm, Docker and Kubernetes limit their jobs so, of which the machine's own figure says nothing. Where the system does
    not say what is in use, as macOS does not, it is all the memory that there is.
    """
    return max(0, min([_of_machine(), *_left_by_groups()]))


def peak_memory() -> int:
    """Bytes of memory that this process has had at most, of the machine alone, not of its GPUs."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # macOS counts bytes, Linux and the BSDs KiB


def _of_machine() -> int:
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(_PROC / "meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_by_groups() -> Iterator[int]:
    """What the limits of this process's group and of those around it leave."""
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, files = (_CONTROL_GROUPS / "memory", _VERSION_1) if controllers else (_CONTROL_GROUPS, _VERSION_2)
        # A container often sees its own group as the root, and of the path that leads there nothing.
        own = root / path.lstrip("/")
        for group in (own, *own.parents):
            if group.is_relative_to(root):
                with contextlib.suppress(ValueError):  # no such file, or the word "max"
                    limit, used = (int(_text(group / name)) for name in (files.limit, files.used))
                    statistics = dict(line.split() for line in _text(group / "memory.stat").splitlines())
                    yield limit - used + int(statistics.get(files.droppable, 0))


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
