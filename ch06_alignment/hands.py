"""Things that change hands many times, noted down out of order: to be followed step by step.

Two friends find a thing each, and each thing is given from friend to friend until somebody keeps
it. The notes of who gave to whom are in any order and do not say which thing it was. So to say who
has one of them in the end, one must follow it from hand to hand. A reply may say the end at once,
or write down every step first.

>>> task = hands_task(2, random.Random(0), thinking=True)
>>> task.is_right(task.answer)
True
"""

import itertools
import random
from collections.abc import Sequence

from ch01_overview.story_world import HE, SHE, THINGS
from ch06_alignment.instructions import Task

__all__ = ["MOST_CHANGES", "hands_task", "hands_tasks"]

NAMES = SHE + HE
MOST_CHANGES = len(NAMES) // 2 - 1  # nobody is in both of the tales


def hands_task(n_changes: int, rng: random.Random, thinking: bool) -> Task:
    """Who has the thing after so many changes of hands; a `thinking` answer notes every step first.

    Only the last sentence of a reply is marked.

    Raises:
        ValueError: for fewer changes than 1, or more than there are names for.
    """
    if not 1 <= n_changes <= MOST_CHANGES:
        raise ValueError(f"{n_changes} changes of hands: from 1 to {MOST_CHANGES} are possible")
    names = rng.sample(NAMES, 2 * (n_changes + 1))
    chains = names[: n_changes + 1], names[n_changes + 1 :]
    things = [thing.split()[-1] for thing in rng.sample(THINGS, 2)]
    found = [f"{t} by {chain[0]}" for chain, t in zip(chains, things, strict=True)]
    steps = [f"{a} to {b}" for chain in chains for a, b in itertools.pairwise(chain)]
    steps += [f"{chain[-1]} went home" for chain in chains]
    last = f"The {things[0]} went home with {chains[0][-1]}."
    answer = f"The {things[0]} {' '.join(chains[0])} home. {last}" if thinking else last
    rng.shuffle(steps)
    rng.shuffle(found)
    prompt = f"Found: {', '.join(found)}. Given: {', '.join(steps)}. Who has the {things[0]}?"
    return Task(f"{n_changes}", prompt, answer, lambda reply: reply.split(". ")[-1] == last)


def hands_tasks(n: int, changes: Sequence[int], seed: int, thinking: bool) -> list[Task]:
    """`n` tasks with numbers of changes from `changes`; the same seed gives the same ones."""
    if n < 0:
        raise ValueError(f"the number of tasks is {n}; it cannot be negative")
    rng = random.Random(seed)
    return [hands_task(rng.choice(changes), rng, thinking) for _ in range(n)]
