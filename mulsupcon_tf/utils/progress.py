"""The line on the screen that shows how far a long piece of work is."""

import sys

import tqdm


def progress_line(total: int, unit: str, *, first: int = 0, title: str | None = None, shown: bool = True) -> tqdm.tqdm:
    """A bar on standard error; where that is no terminal, a line now and then.

    Args:
        total: pieces of the whole work.
        unit: name of a piece.
        first: pieces that are done already.
        title: what stands before the bar.
        shown: False for nothing at all.
    """
    interactive = sys.stderr.isatty()
    return tqdm.tqdm(
        total=total,
        initial=first,
        unit=unit,
        desc=title,
        file=sys.stderr,
        disable=not shown,
        dynamic_ncols=interactive,
        mininterval=0.5 if interactive else 20.0,
        ncols=None if interactive else 0,
    )
