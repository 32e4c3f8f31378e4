"""Attempts to break the book, by the hundred thousand, and a table of what came of them.

    python -m tests.torture                 # all of it, at full size
    python -m tests.torture --quick         # a slice of most rows
    python -m tests.torture kill fuzz       # the rows whose area or name has one of these words

A row is a generator that makes attempts and yields for each what was lost: None, or a sentence. Its
chances come from a seed, so an attempt that lost something can be made again. What it returns is
the remark beside its numbers. An error that a row does not expect is a loss too.
"""

import io
import random
import traceback
from collections.abc import Callable, Generator
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from time import perf_counter

import torch

from tests.torture.child import Child

__all__ = ["ROWS", "Attempts", "Outcome", "Row", "report", "row"]

Attempts = Generator[str | None, None, str | None]


@dataclass(frozen=True)
class Row:
    """Attempts of one kind: about how many there are, and in the quick slice (0: left out)."""

    area: str
    what: str
    attempts: int
    quick: int
    function: Callable[[random.Random, int], Attempts]

    def run(self, seed: int = 0, quick: bool = False) -> "Outcome":
        """Make all attempts."""
        rng = random.Random(f"{seed} {self.area} {self.what}")
        torch.manual_seed(rng.getrandbits(32))
        outcome, began = Outcome(self), perf_counter()
        attempts = self.function(rng, self.quick if quick else self.attempts)
        try:
            while True:
                lost = next(attempts)
                outcome.attempts += 1
                outcome.losses += [] if lost is None else [lost]
        except StopIteration as end:
            outcome.remark = end.value or ""
        except Exception:
            outcome.losses.append(traceback.format_exc())
        outcome.seconds = perf_counter() - began
        return outcome

    def in_child(self, seed: int, quick: bool) -> "Outcome":
        """`run` in a process of its own, so that no row finds what another has left in memory."""

        def run_quietly() -> dict:
            with redirect_stderr(io.StringIO()):  # a table has no progress bars
                return self.run(seed, quick).numbers()

        said = Child(run_quietly, silent=False).wait()
        lost = {"losses": [f"the process of this row ended: {said.get('error')}"]}
        return Outcome(self, **said.get("returned", lost))


@dataclass
class Outcome:
    """What came of a row; one that made no attempt has proved nothing."""

    row: Row
    attempts: int = 0
    losses: list[str] = field(default_factory=list)
    seconds: float = 0.0
    remark: str = ""

    def numbers(self) -> dict:
        """All but the row."""
        return {name: value for name, value in vars(self).items() if name != "row"}

    @property
    def held(self) -> bool:
        """Whether there were attempts and nothing was lost."""
        return self.attempts > 0 and not self.losses


ROWS: list[Row] = []


def row(area: str, what: str, attempts: int, quick: int) -> Callable:
    """Put a function into the table."""

    def add(function: Callable[[random.Random, int], Attempts]) -> Callable:
        ROWS.append(Row(area, what, attempts, quick, function))
        return function

    return add


def report(rows: list[Row], seed: int, quick: bool) -> int:
    """Run the rows and print the table as it grows; 1 if anything was lost, else 0."""
    print(f"{'area':<9} {'what':<44} {'attempts':>9} {'losses':>6} {'seconds':>7}  remark")
    outcomes = []
    for each in rows:
        outcomes.append(o := each.in_child(seed, quick))
        numbers = f"{o.attempts:9,} {len(o.losses):6,} {o.seconds:7.1f}"
        print(f"{each.area:<9} {each.what:<44} {numbers}  {o.remark}".rstrip(), flush=True)
        for lost in o.losses[:10]:
            print(f"    lost: {lost}", flush=True)
    attempts, losses = sum(o.attempts for o in outcomes), sum(len(o.losses) for o in outcomes)
    seconds = sum(o.seconds for o in outcomes)
    print(f"{'all':<9} {f'{len(rows)} rows':<44} {attempts:9,} {losses:6,} {seconds:7.1f}")
    return 0 if outcomes and all(o.held for o in outcomes) else 1
