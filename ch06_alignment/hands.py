"""A tale with many changes of hands, told out of order: it has to be followed step by step.

Two friends find a thing each. Each thing is given from friend to friend, until somebody keeps it.
Who gave to whom is told in any order, and which thing it was is not told: so to say who has one of
them in the end, one must follow it from hand to hand. A reply may say the end at once, or write
down every holder first.

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
    """Who has the thing after so many changes of hands; a `thinking` answer names all holders.

    Only the last sentence of a reply is marked.

    Raises:
        ValueError: for fewer changes than 1, or more than there are names for.
    """
    if not 1 <= n_changes <= MOST_CHANGES:
        raise ValueError(f"{n_changes} changes of hands: from 1 to {MOST_CHANGES} are possible")
    names = rng.sample(NAMES, 2 * (n_changes + 1))
    chains = names[: n_changes + 1], names[n_changes + 1 :]
    things = rng.sample(THINGS, 2)
    found = [f"{chain[0]} found the {t}." for chain, t in zip(chains, things, strict=True)]
    given = [
        f"{giver} gave it to {taker}."
        for chain in chains
        for giver, taker in itertools.pairwise(chain)
    ]
    told = given + [f"{chain[-1]} kept it." for chain in chains]
    rng.shuffle(told)
    rng.shuffle(found)
    last = f"{chains[0][-1]} has the {things[0]}."
    answer = f"Holders: {', '.join(chains[0])}. {last}" if thinking else last
    prompt = f"{' '.join(found + told)} Who has the {things[0]} at the end?"
    return Task(f"{n_changes}", prompt, answer, lambda reply: reply.split(". ")[-1] == last)


def hands_tasks(n: int, changes: Sequence[int], seed: int, thinking: bool) -> list[Task]:
    """`n` tasks with numbers of changes from `changes`; the same seed gives the same ones."""
    rng = random.Random(seed)
    return [hands_task(rng.choice(changes), rng, thinking) for _ in range(n)]
