"""The corpus: texts whose entropy and whose facts are known, and real text one argument away.

>>> story = stories(1, seed=7)[0]
>>> parse(story.text) == story.facts
True

A story is a chain of choices, each among equally likely pieces (`story_world.py`). Its probability
is the product of theirs, and since no other chain of choices gives the same text, that is the
probability of the text. The mean of `-log_prob` over many stories therefore estimates the entropy
of the corpus, the loss that no model can beat (Shannon 1948, "A Mathematical Theory of
Communication", section 6; that no other distribution does better is Gibbs' inequality).
"""

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

from ch01_overview.files import cache_folder
from ch01_overview.story_world import Facts, Narrator, tell

__all__ = ["Story", "load_text", "log_prob", "parse", "stories", "text_path", "train_val_split"]

SEPARATOR = "\n\n"  # a blank line ends a story; there is none inside
N_STORIES = 3_000  # in load_text("stories"): about one and a half million characters
TRAIN_SEED = 1  # of the stories that are learnt from; those held out have others
SHAKESPEARE = "shakespeare.txt"
SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


@dataclass(frozen=True)
class Story:
    """A text, what is true in it, and the natural logarithm of its probability (nats, below 0)."""

    text: str
    facts: Facts
    log_prob: float


class NotAStoryError(Exception):
    """The text being read goes on as no story does."""


class Writer(Narrator):
    """The narrator that throws dice."""

    def __init__(self, rng: random.Random):
        self.random = rng.random
        self.pieces: list[str] = []
        self.log_prob = 0.0

    def say(self, text: str) -> None:
        """Write a piece that follows with certainty."""
        self.pieces.append(text)

    def pick(self, options: Sequence[str]) -> int:
        """Write one of the pieces, each with probability 1 / len(options)."""
        index = int(self.random() * len(options))
        self.pieces.append(options[index])
        self.log_prob -= math.log(len(options))
        return index


class Reader(Narrator):
    """The narrator that reads: it finds out what a `Writer` must have picked."""

    def __init__(self, text: str):
        self.text, self.position, self.log_prob = text, 0, 0.0

    def say(self, text: str) -> None:
        """Read a piece that has to come next."""
        if not self.text.startswith(text, self.position):
            raise NotAStoryError
        self.position += len(text)

    def pick(self, options: Sequence[str]) -> int:
        """Read the piece that comes next. No piece begins another, so the first that fits is it."""
        for index, option in enumerate(options):
            if self.text.startswith(option, self.position):
                self.position += len(option)
                self.log_prob -= math.log(len(options))
                return index
        raise NotAStoryError


def stories(n: int, seed: int = 0) -> list[Story]:
    """`n` stories; the same seed gives the same ones."""
    if n < 0:
        raise ValueError(f"the number of stories is {n}; it cannot be negative")
    rng = random.Random(seed)
    return [_write(rng) for _ in range(n)]


def _write(rng: random.Random) -> Story:
    writer = Writer(rng)
    facts = tell(writer)
    return Story("".join(writer.pieces), facts, writer.log_prob)


def _read(text: str) -> tuple[Facts, float] | None:
    reader = Reader(text)
    try:
        facts = tell(reader)
    except NotAStoryError:
        return None
    return (facts, reader.log_prob) if reader.position == len(text) else None


def parse(text: str) -> Facts | None:
    """The facts of a story, from its text alone; `None` for a text that is no story."""
    read = _read(text)
    return read and read[0]


def log_prob(text: str) -> float:
    """The log-probability in nats of any text at all: minus infinity for one that is no story."""
    read = _read(text)
    return read[1] if read else -math.inf


def load_text(source: str | Path = "stories") -> str:
    """A text to learn from: `"stories"`, `"shakespeare"`, or the path of a UTF-8 file.

    Raises:
        ValueError: no such file, a file that is empty or not UTF-8, or a download that failed.
    """
    if source == "stories":
        return SEPARATOR.join(story.text for story in stories(N_STORIES, TRAIN_SEED)) + SEPARATOR
    path = text_path(source)
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start} fits no character") from error


def text_path(source: str | Path) -> Path:
    """The file of a text other than the stories, for reading it piece by piece.

    Tiny Shakespeare (1,115,394 bytes) is looked for in `$LLM_DATA_DIR`, then in the book's cache,
    and else downloaded once; its SHA-256 is checked each time.

    Raises:
        ValueError: no such file, an empty file, or a download that failed.
    """
    path = _shakespeare() if source == "shakespeare" else Path(source)
    if not path.is_file():
        raise ValueError(f'{path} is no file; expected "stories", "shakespeare" or a path')
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; expected a text in UTF-8")
    return path


def _shakespeare() -> Path:
    """The verified file, from the first of the three places that has it."""
    folder = os.environ.get("LLM_DATA_DIR")
    if folder and (Path(folder) / SHAKESPEARE).is_file():
        path = Path(folder) / SHAKESPEARE
        if pooch.file_hash(str(path)) != SHAKESPEARE_SHA256:
            raise ValueError(
                f"{path} is not Tiny Shakespeare: expected SHA-256 {SHAKESPEARE_SHA256}"
            )
        return path
    try:
        found = pooch.retrieve(
            SHAKESPEARE_URL, SHAKESPEARE_SHA256, fname=SHAKESPEARE, path=cache_folder()
        )
    except Exception as error:
        raise ValueError(
            f"Tiny Shakespeare could not be downloaded ({error}). Put the file {SHAKESPEARE} "
            f"(from {SHAKESPEARE_URL}) into {cache_folder()}, or set LLM_DATA_DIR to its folder."
        ) from error
    return Path(found)


def train_val_split(text: str, val_fraction: float = 0.1) -> tuple[str, str]:
    """The beginning of a text, to train on, and its last `val_fraction`, to be tested on.

    Raises:
        ValueError: a fraction outside (0, 1), or a text so short that one part would be empty.
    """
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}; it must lie between 0 and 1")
    cut = int(len(text) * (1 - val_fraction))
    if not 0 < cut < len(text):
        raise ValueError(f"{len(text)} characters are too few to split off {val_fraction} of them")
    return text[:cut], text[cut:]
