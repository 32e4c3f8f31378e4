"""Claims about speed, and how they are settled: the same work, in turns, on the same machine.

A machine is never equally fast for long. So the rivals take turns, a slow moment strikes them all,
and the median of each forgets it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

__all__ = ["Claim", "interleave", "report"]


@dataclass(frozen=True)
class Claim:
    """Ours against a baseline, in seconds or anything else of which less is better.

    The claim holds when ours / baseline is at most `target`: 0.5 means at least twice as fast.
    """

    what: str
    ours: float
    baseline: float
    target: float = 1.0

    @property
    def ratio(self) -> float:
        """Ours as a share of the baseline."""
        return self.ours / self.baseline

    @property
    def held(self) -> bool:
        """Whether the measurement bears the claim out."""
        return self.ratio <= self.target


def interleave(functions: Sequence[Callable[[], Any]], repeats: int = 5) -> list[float]:
    """The median seconds of each function, when all are called in turn, `repeats` times."""
    seconds = [[] for _ in functions]
    for _ in range(repeats):
        for function, own in zip(functions, seconds, strict=True):
            start = perf_counter()
            function()
            own.append(perf_counter() - start)
    return [median(own) for own in seconds]


def report(claims: Sequence[Claim]) -> int:
    """Print a row for each claim; the exit code of the benchmark, 1 when one is missed."""
    print(f"{'what':<44} {'ours':>9} {'baseline':>9} {'ratio':>6} {'target':>6}")
    for claim in claims:
        numbers = f"{claim.ours:9.3g} {claim.baseline:9.3g} {claim.ratio:6.2f} {claim.target:6.2f}"
        print(f"{claim.what:<44} {numbers} {'held' if claim.held else 'MISSED'}")
    return 0 if all(claim.held for claim in claims) else 1
