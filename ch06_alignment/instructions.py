"""Instructions that the story world can write, answer and mark.

A task is what a user asks for, an answer that is right, and a mark. No person and no other model
judges: what was asked for is known, and `parse` finds out whether a reply has it.

>>> task = request(stories(1, seed=7)[0], random.Random(0))
>>> task.is_right(task.answer)
True
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from ch01_overview.corpus import Story, parse, stories
from ch01_overview.story_world import Character

__all__ = [
    "Task",
    "conversation",
    "conversations",
    "messages",
    "questions",
    "request",
    "with_text",
]


@dataclass(frozen=True)
class Task:
    """One instruction: its kind, what the user says, a right answer, and how a reply is marked."""

    kind: str
    prompt: str
    answer: str
    is_right: Callable[[str], bool]


def request(story: Story, rng: random.Random) -> Task:
    """The instruction that a story is an answer to; any other story with what it names is right."""
    facts = story.facts
    if facts.form == "tale":
        hero = facts.hero
        wording = rng.choice(("Tell a tale about {}.", "Please tell me a tale about {}."))
        return Task(
            kind="tale",
            prompt=wording.format(f"{hero.name} the {hero.trait} {hero.kind}"),
            answer=story.text,
            is_right=lambda reply: (
                (f := parse(reply)) is not None and (f.form, f.hero) == ("tale", hero)
            ),
        )
    if facts.form == "poem":
        place = facts.places[0]
        wording = rng.choice(("Write a poem about {}.", "Please write a rhyme about {}."))
        return Task(
            kind="poem",
            prompt=wording.format(place.split(" ", 1)[1]),
            answer=story.text,
            is_right=lambda reply: (
                (f := parse(reply)) is not None and (f.form, f.places) == ("poem", (place,))
            ),
        )
    names = [c.name for c in facts.characters]
    wording = rng.choice(("Let {} and {} talk.", "What do {} and {} say to each other?"))
    return Task(
        kind="dialogue",
        prompt=wording.format(*names),
        answer=story.text,
        is_right=lambda reply: (
            (f := parse(reply)) is not None
            and (f.form, [c.name for c in f.characters]) == ("dialogue", names)
        ),
    )


def questions(story: Story, rng: random.Random) -> list[Task]:
    """All that can be asked about a tale or a dialogue, each answered by one short sentence."""
    facts = story.facts
    if facts.form == "poem":
        return []
    noun = facts.thing.split(" ")[1]
    asked = [
        (
            "holder",
            rng.choice(("Who has the {} at the end?", "In the end, who has the {}?")).format(noun),
            f"{facts.holder} has the {facts.thing}.",
        ),
        (
            "first",
            rng.choice(("Who had the {} first?", "Who was the first to have the {}?")).format(noun),
            f"{facts.holders[0]} had the {facts.thing} first.",
        ),
    ]
    for character in facts.characters:
        wording = rng.choice(("Who is {}?", "What kind of animal is {}?"))
        asked.append(("who", wording.format(character.name), describe(character)))
    if facts.home:
        name = facts.hero.name
        asked.append(("home", f"Where does {name} live?", f"{name} lives {facts.home}."))
    for name, place in facts.away:
        asked.append(("away", f"Where is {name} at the end?", f"{name} is {place}."))
    return [Task(kind, prompt, answer, answer.__eq__) for kind, prompt, answer in asked]


def describe(character: Character) -> str:
    """Such as "Mia is an honest owl."."""
    return f"{character.name} is {character.article} {character.trait} {character.kind}."


def with_text(story: Story, question: Task) -> str:
    """The prompt of somebody who brings the text along: the story, then the question."""
    return f"{story.text}\n\n{question.prompt}"


def conversation(story: Story, rng: random.Random, n_questions: int = 4) -> list[dict[str, str]]:
    """Messages about a story: it is asked for or brought along, then come questions about it.

    One of the questions is who has the thing in the end: what is hardest is asked most.
    """
    asked = questions(story, rng)
    asked = asked[:1] + rng.sample(asked[1:], min(n_questions, len(asked)) - 1) if asked else []
    rng.shuffle(asked)
    if asked and rng.random() < 0.4:
        asked[0] = replace(asked[0], prompt=with_text(story, asked[0]))
        return messages(asked)
    return messages([request(story, rng), *asked])


def messages(tasks: list[Task]) -> list[dict[str, str]]:
    """A conversation in which one task after the other is set and done right."""
    return [
        {"role": role, "content": content}
        for task in tasks
        for role, content in (("user", task.prompt), ("assistant", task.answer))
    ]


def conversations(n: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """`n` conversations about stories; the same seed gives the same ones.

    After a poem, and now and then after something else, comes another request: so that a user can
    change the subject.
    """
    rng = random.Random(seed)
    told = stories(n, seed=seed)
    poems = [story for story in told if story.facts.form == "poem"]
    talks = []
    for story in told:
        talk = conversation(story, rng)
        if story.facts.form == "poem":
            talk += messages([request(rng.choice(told), rng)])
        elif poems and rng.random() < 0.15:
            talk += messages([request(rng.choice(poems), rng)])
        talks.append(talk)
    return talks
