"""Watching a model learn: a run like any other, from which copies of the model are kept on the way.

The stories make it possible to say what each copy knows. Their grammar gives every character its
true cost, so the excess of a model can be booked to the kind of word on which it was paid.

Shapes: B batch, T time, L layers, H heads.
"""

import itertools
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ch01_overview.corpus import Writer
from ch01_overview.story_world import Facts, tell
from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer
from ch03_attention.attention import attention_weights, causal_mask
from ch04_model.model import GPT
from ch05_pretraining.checkpoint import load_checkpoint, save_checkpoint
from ch05_pretraining.loop import draw_windows, train
from ch05_pretraining.recipes import Corpus, Preset, folder_in_cache, run_path

__all__ = [
    "MILESTONES",
    "MarkedStory",
    "attention_patterns",
    "excess",
    "marked_stories",
    "snapshot",
    "watch",
]

MILESTONES = (0, 20, 50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800, 1000, 1200, 1400)
KINDS = (
    *("spelling", "fixed wording", "free choices", "the thing again", "a name again"),
    "the last holder",
)


def watch(
    corpus: Corpus, preset: Preset, milestones: Sequence[int] = MILESTONES
) -> tuple[GPT, list[dict], dict[int, Path]]:
    """Train the book's stories model and keep its weights at the milestones.

    Returned are the model, its history, and the file of the weights after each number of steps. The
    run is the one of `train_from_scratch`, step for step; and it is taken up where it stopped.
    """
    torch.manual_seed(preset.train.seed)
    model = GPT(preset.model)
    checkpoint = run_path("stories", preset)
    folder = folder_in_cache("watched") / checkpoint.stem
    folder.mkdir(exist_ok=True)
    last = preset.train.steps
    kept = sorted({step for step in milestones if step < last} | {last})
    files = {step: folder / f"{step}.safetensors" for step in kept}
    done = load_checkpoint(checkpoint, GPT(preset.model))[0] if checkpoint.exists() else 0
    if any(step < min(done, last) and not file.exists() for step, file in files.items()):
        checkpoint, done = folder / "run.safetensors", 0  # somebody trained it without watching
        if checkpoint.exists():
            done = load_checkpoint(checkpoint, GPT(preset.model))[0]
    steps = itertools.count(done)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        step = next(steps)
        if step in files:
            save_checkpoint(files[step], model, (), preset.train, step, [])
        return draw_windows(corpus.train_ids, preset.train, corpus.starts, generator)

    history = train(
        model,
        draw,
        preset.train,
        val_ids=corpus.val_ids,
        val_starts=corpus.val_starts,
        floor=corpus.floor,
        checkpoint=checkpoint,
    )
    save_checkpoint(files[last], model, (), preset.train, last, [])
    return model.eval(), history, files


def snapshot(preset: Preset, file: Path) -> GPT:
    """The model whose weights are in a file by `watch`."""
    model = GPT(preset.model)
    load_checkpoint(file, model)
    return model.eval()


@dataclass(frozen=True)
class MarkedStory:
    """A story of which every character's true cost is known.

    `nats` has the cost of each character, `last_words` says where the lines begin that tell what
    the last holder does (the length of the text, if nothing is held).
    """

    text: str
    facts: Facts
    nats: list[float]
    last_words: int


class _Marker(Writer):
    """A writer that notes what each character costs, and where the last lines begin."""

    def __init__(self, rng: random.Random):
        super().__init__(rng)
        self.nats: list[float] = []
        self.last_words = None

    def say(self, text: str) -> None:
        super().say(text)
        self._note(text, [0.0] * len(text))

    def pick(self, options: Sequence[str]) -> int:
        index = super().pick(options)
        self._note(options[index], _letter_nats(options, options[index]))
        return index

    def _note(self, text: str, nats: list[float]) -> None:
        # So the last lines begin: a tale's "went home and put it", a dialogue's "So Mia went home".
        if self.last_words is None and " home " in text:
            self.last_words = len(self.nats)
        self.nats += nats


def _letter_nats(options: Sequence[str], chosen: str) -> list[float]:
    """What each letter of the chosen piece costs: the options that fit before it, and after it."""
    fitting = [sum(o.startswith(chosen[:i]) for o in options) for i in range(len(chosen) + 1)]
    return [math.log(before / after) for before, after in itertools.pairwise(fitting)]


def marked_stories(n: int, seed: int = 0) -> list[MarkedStory]:
    """The stories of `stories(n, seed)`, with the cost of every character.

    Raises:
        ValueError: if `n` is negative.
    """
    if n < 0:
        raise ValueError(f"the number of stories is {n}; it cannot be negative")
    rng, told = random.Random(seed), []
    for _ in range(n):
        writer = _Marker(rng)
        facts, text = tell(writer), "".join(writer.pieces)
        end = len(text) if writer.last_words is None else writer.last_words
        told.append(MarkedStory(text, facts, writer.nats, end))
    return told


def _kind(story: MarkedStory, begin: int, true_nats: float) -> str:
    """What must be known for the token that begins at this character."""
    text = story.text
    if begin and text[begin].isalpha() and text[begin - 1].isalpha():
        return "spelling"
    begin += text[begin] == " "
    word = re.match(r"\w*", text[begin:])[0]
    again = bool(word) and re.search(rf"\b{word}\b", text[:begin])
    if again and word in {character.name for character in story.facts.characters}:
        due = word == story.facts.holder and begin >= story.last_words
        first = due and not re.search(rf"\b{word}\b", text[story.last_words : begin])
        return "the last holder" if first else "a name again"
    if again and word in story.facts.thing.split():
        return "the thing again"
    return "free choices" if true_nats > 1e-9 else "fixed wording"


@torch.no_grad()
def excess(model: GPT, tokenizer: BPETokenizer, told: Sequence[MarkedStory]) -> dict[str, float]:
    """For each kind of word, the nats per story that the model pays above the truth."""
    engine, end = tokenizer.to_tiktoken(), tokenizer.special_ids[END_OF_TEXT]
    totals = dict.fromkeys(KINDS, 0.0)
    for story in told:
        ids = [end, *engine.encode_ordinary(story.text)]
        log_p = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)  # (T, V)
        paid = -log_p.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
        begin = 0
        for token, cost in zip(ids[1:], paid.tolist(), strict=True):
            stop = begin + len(tokenizer.decode_bytes([token]))
            true_nats = sum(story.nats[begin:stop])
            totals[_kind(story, begin, true_nats)] += cost - true_nats
            begin = stop
    return {kind: total / len(told) for kind, total in totals.items()}


@torch.no_grad()
def attention_patterns(model: GPT, ids: Int[Tensor, "T"]) -> Float[Tensor, "L H T T"]:
    """How every head of every layer spreads its attention over the tokens before."""
    inputs = []
    hooks = [
        block.attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        for block in model.blocks
    ]
    model(ids[None])
    for hook in hooks:
        hook.remove()
    rope, mask = (model.cos[: len(ids)], model.sin[: len(ids)]), causal_mask(len(ids))
    layers = []
    for block, x in zip(model.blocks, inputs, strict=True):
        q, k, _ = block.attention.project(x, rope)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        layers.append(attention_weights(q, k, mask)[0])
    return torch.stack(layers)
