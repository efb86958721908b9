"""Runs a program as `python -m` does and notes its peak of resident memory: `python -m tests.helpers.peak_memory FILE MODULE ARGUMENTS...`.

The kernel's own count for a child (`ru_maxrss`) begins with what its parent had, which may be gigabytes in tests.
"""

import pathlib
import runpy
import sys


def peak_kib():
    """Of this process since it was started, in KiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    _, file, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        pathlib.Path(file).write_text(str(peak_kib()))
