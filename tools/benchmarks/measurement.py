"""One measured figure with its spread, candidates measured in turn, and the table of all figures."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A figure of one section.

    Attributes:
        section: which part of the benchmark it belongs to.
        name: what was measured.
        unit: of the values, such as "ms", "samples/s", "MiB"; "x" for a ratio.
        values: one for each repeat.
        note: what a reader must know besides.
    """

    section: str
    name: str
    unit: str
    values: Sequence[float]
    note: str = ""

    def as_json(self) -> dict:
        """The figure with its median, least and greatest value."""
        spread = {"median": statistics.median(self.values), "least": min(self.values), "greatest": max(self.values)}
        return dataclasses.asdict(self) | spread


def in_turn(candidates: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Measures every candidate once a round, so that a slow minute of the machine meets all of them.

    Args:
        candidates: by name, each a call that returns its figure.
        repeats: rounds.

    Returns:
        By name, the figures of all rounds.
    """
    figures: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, measure in candidates.items():
            figures[name].append(measure())
    return figures


def ratios(figures: Sequence[float], base: Sequence[float]) -> list[float]:
    """Figures over those of a base in the same round."""
    return [one / other for one, other in zip(figures, base, strict=True)]


def table(measurements: Sequence[Measurement]) -> str:
    """Markdown, one row a figure."""
    lines = ["| section | figure | median | least to greatest | unit | note |", "|---|---|---|---|---|---|"]
    for one in measurements:
        figures = (statistics.median(one.values), min(one.values), max(one.values))
        middle, least, greatest = (f"{figure:.4g}" for figure in figures)
        lines.append(f"| {one.section} | {one.name} | {middle} | {least} to {greatest} | {one.unit} | {one.note} |")
    return "\n".join(lines)
