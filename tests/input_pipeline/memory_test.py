"""The memory that may be taken, by folders of files as Linux has them under control groups of both versions."""

import os
import resource
import sys
import types

import pytest

from mulsupcon_tf.input_pipeline import memory

GIB = 2**30
MACHINE = f"MemTotal: 67108864 kB\nMemFree: 1024 kB\nMemAvailable:   {48 * GIB // 1024} kB\n"
UNLIMITED = 9223372036854771712


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes files below the folders that stand for /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CONTROL_GROUPS", tmp_path / "groups")

    def write(**files):
        for name, text in {"proc/meminfo": MACHINE, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    return write


def group_2(folder, limit, used, droppable=0):
    stat = f"anon {used}\ninactive_file {droppable}\nactive_file 77\n"
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": stat,
    }


def group_1(folder, limit, used, droppable=0):
    stat = f"inactive_file 5\ntotal_inactive_file {droppable}\n"
    names = {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}
    return {f"{folder}/{name}": text for name, text in names.items()}


JOB_1 = "9:name=systemd:/\n4:cpuacct,memory:/slurm/job_7/step_0\n1:cpu:/\n"
CASES = {
    "no groups": ({}, 48 * GIB),
    "no limit, version 2": ({"proc/self/cgroup": "0::/\n", **group_2("groups", "max", GIB)}, 48 * GIB),
    "no limit, version 1": ({"proc/self/cgroup": "4:memory:/\n", **group_1("groups/memory", UNLIMITED, GIB)}, 48 * GIB),
    "a container that sees its group as the root": (
        {"proc/self/cgroup": "0::/\n", **group_2("groups", 8 * GIB, 3 * GIB, GIB)},
        6 * GIB,
    ),
    "a container that is named by the path on its machine": (
        {"proc/self/cgroup": "4:memory:/docker/0af1\n", **group_1("groups/memory", 8 * GIB, 3 * GIB, GIB)},
        6 * GIB,
    ),
    "a job of version 2": (
        {"proc/self/cgroup": "0::/user.slice/a b:c\n", **group_2("groups/user.slice/a b:c", 4 * GIB, GIB)},
        3 * GIB,
    ),
    "a group around it that leaves less, version 2": (
        {
            "proc/self/cgroup": "0::/pods/one\n",
            **group_2("groups/pods", 16 * GIB, 15 * GIB, GIB // 2),
            **group_2("groups/pods/one", "max", GIB),
        },
        3 * GIB // 2,
    ),
    "a group around it that leaves less, version 1": (
        {
            "proc/self/cgroup": JOB_1,
            **group_1("groups/memory/slurm", UNLIMITED, 30 * GIB),
            **group_1("groups/memory/slurm/job_7", 10 * GIB, 8 * GIB),
            **group_1("groups/memory/slurm/job_7/step_0", UNLIMITED, 8 * GIB),
        },
        2 * GIB,
    ),
    "both versions beside each other": (
        {"proc/self/cgroup": f"{JOB_1}0::/\n", **group_1("groups/memory/slurm/job_7/step_0", 9 * GIB, GIB)},
        8 * GIB,
    ),
    "nothing left": ({"proc/self/cgroup": "0::/\n", **group_2("groups", GIB, 2 * GIB)}, 0),
    "a group beside it": ({"proc/self/cgroup": "0::/a\n", **group_2("groups/b", GIB, 0)}, 48 * GIB),
    "a group that leads out": ({"proc/self/cgroup": "0::/../b\n", **group_2("groups", 2 * GIB, GIB)}, GIB),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_the_least_of_the_machine_and_of_the_limits_counts(system, files, expected):
    system(**files)
    assert memory.available_memory() == expected


@pytest.mark.parametrize("files", [{}, {"proc/meminfo": "MemTotal: 67108864 kB\n"}])
def test_where_linux_says_nothing_it_is_all_that_the_machine_has(system, monkeypatch, files):
    if files:
        system(**files)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": 2**20}.__getitem__)
    assert memory.available_memory() == 16 * GIB


@pytest.mark.parametrize(
    ("platform", "counted"), [("linux", 3 * GIB // 1024), ("freebsd14", 3 * GIB // 1024), ("darwin", 3 * GIB)]
)
def test_what_was_taken_at_most_is_in_bytes_whatever_the_system_counts_in(monkeypatch, platform, counted):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: types.SimpleNamespace(ru_maxrss=counted))
    assert memory.peak_memory() == 3 * GIB


def test_what_was_taken_at_most_is_no_less_than_an_array_that_was_filled():
    filled = bytearray(b"1" * 2**26)
    assert len(filled) < memory.peak_memory() < 2**20 * GIB
