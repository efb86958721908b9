"""Numbers in sentences."""


def counted(count: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`; of nouns whose plural ends in s."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def in_bytes(count: float) -> str:
    """So many bytes in the largest unit of which there is one, `1.5 GiB`; less than a KiB as `0.3 KiB`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.1f} KiB"
