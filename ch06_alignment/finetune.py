"""From the pretrained model to an assistant: supervised fine-tuning, the report card, the cache.

>>> model, tokenizer = assistant()      # trained on first use, which pretrains first if need be

Shapes: B conversations, T time.
"""

import copy
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from ch01_overview.corpus import stories
from ch01_overview.files import make_folder, write_whole
from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.huggingface import load_pretrained, save_pretrained
from ch04_model.model import GPT, generate
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.evaluation import IGNORED, evaluate
from ch05_pretraining.loop import train
from ch05_pretraining.recipes import (
    PRESETS,
    fingerprint,
    folder_in_cache,
    held_out_stories,
    pretrained,
    share_of_stories,
)
from ch06_alignment.alignment import END, format_chat, pad_batch, response_mask
from ch06_alignment.instructions import Task, conversations, questions, request, with_text

__all__ = [
    "assistant",
    "assistant_folder",
    "batches",
    "exam",
    "finetune",
    "replies",
    "report_card",
    "score",
]

N_CONVERSATIONS = 6_000
# Rates somewhat below those of pretraining. A batch is of whole conversations.
CONFIG = TrainConfig(
    steps=520, batch_size=8, muon_lr=0.02, adamw_lr=0.03, decay=0.8, precision="float32"
)
TEMPERATURE = 0.2  # of replies: tales vary, and mistakes stay rare


def batches(
    talks: Iterable[list[dict[str, str]]], tokenizer: BPETokenizer, batch_size: int, longest: int
) -> list[tuple[Int64[Tensor, "B T"], Int64[Tensor, "B T"]]]:
    """Conversations as (inputs, targets), in which only an assistant's tokens are targets.

    Those of about one length share a batch, so that there is little to fill up; fewer than
    `batch_size` of the longest are left over. A conversation of more than `longest` tokens is left
    out: cut off, it would teach to stop in the middle.
    """
    if batch_size < 1:
        raise ValueError(f"batches of {batch_size} conversations: at least 1 needed")
    encoded = [format_chat(talk, tokenizer) for talk in talks]
    encoded = sorted((ids for ids in encoded if len(ids) <= longest), key=len)
    result = []
    for i in range(0, len(encoded) - batch_size + 1, batch_size):
        some = encoded[i : i + batch_size]
        ids, mask = pad_batch([(ids, response_mask(ids, tokenizer)) for ids in some])
        result.append((ids[:, :-1], ids[:, 1:].where(mask[:, 1:], IGNORED)))
    return result


def finetune(
    model: GPT,
    tokenizer: BPETokenizer,
    config: TrainConfig = CONFIG,
    checkpoint: Path | None = None,
) -> list[dict]:
    """Teach a pretrained model, in place, to answer; return the history of it.

    Raises:
        ValueError: if the model's context is too short for any conversation.
    """
    talks, longest = conversations(N_CONVERSATIONS, seed=2), model.config.context_length
    data = batches(talks, tokenizer, config.batch_size, longest)
    if not data:
        raise ValueError(f"no batch of conversations fits into a context of {longest} tokens")

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return data[torch.randint(len(data), (), generator=generator)]

    history = train(model, draw, config, checkpoint=checkpoint)
    model.eval()
    return history


def assistant() -> tuple[GPT, BPETokenizer]:
    """The book's model after fine-tuning, and its tokenizer; made on first use, then cached."""
    return load_pretrained(assistant_folder())


def assistant_folder() -> Path:
    """Where the assistant is kept, with its report card; it is trained if it is not there yet."""
    key = fingerprint(str(CONFIG), module=__name__)
    folder = folder_in_cache("models") / f"assistant-{key}"
    if not folder.exists():
        model, tokenizer = pretrained()
        base = copy.deepcopy(model)
        finetune(
            model, tokenizer, checkpoint=folder_in_cache("runs") / f"{folder.name}.safetensors"
        )
        card = report_card(base, model, tokenizer)

        def fill(beside: Path) -> None:
            save_pretrained(model, tokenizer, beside)
            write_whole(beside / "report_card.txt", card)

        make_folder(folder, fill)
    return folder


def report_card(base: GPT, model: GPT, tokenizer: BPETokenizer, n: int = 200) -> str:
    """How good a pretrained model and its assistant are, on texts that neither has seen."""
    corpus = held_out_stories(tokenizer)
    # In windows as long as those it was trained on: it has never seen a position beyond.
    window = PRESETS["book"].train.context_length
    loss = evaluate(base, corpus.val_ids, window, starts=corpus.val_starts)
    generator = torch.Generator().manual_seed(0)
    rows = [
        ("loss on held-out text, bits per byte", f"{corpus.bits_per_byte(loss):.4f}"),
        ("the floor that no model can beat", f"{corpus.bits_per_byte(corpus.floor):.4f}"),
        ("loss / floor", f"{loss / corpus.floor:.3f}"),
        (
            "samples without a mistake",
            f"{share_of_stories(base, tokenizer, n, generator=generator)[0]:.0%}",
        ),
    ]
    for kind, told in {
        "holder": '"who has it" on unseen tales',
        "tale": '"tell a tale about"',
    }.items():
        rows.append((f"{told}, right", f"{score(model, tokenizer, exam(kind, n)):.1%} of {n}"))
    return "\n".join(f"  {name:40}{value}" for name, value in rows) + "\n"


def replies(
    model: GPT,
    tokenizer: BPETokenizer,
    prompts: list[str],
    temperature: float = TEMPERATURE,
    generator: torch.Generator | None = None,
) -> list[str]:
    """What the assistant says to each prompt. Prompts of one length are answered side by side."""
    end, context_length = tokenizer.special_ids[END], model.config.context_length
    by_length = defaultdict(list)
    for i, prompt in enumerate(prompts):
        ids = format_chat([{"role": "user", "content": prompt}], tokenizer)
        by_length[len(ids)].append((i, ids))
    said = [""] * len(prompts)
    for length, group in sorted(by_length.items()):
        ids = generate(
            model,
            torch.tensor([ids for _, ids in group]),
            context_length - length,
            temperature=temperature,
            stop_ids=(end,),
            generator=generator,
        )
        for (i, _), row in zip(group, ids[:, length:].tolist(), strict=True):
            said[i] = tokenizer.decode(row[: row.index(end)] if end in row else row)
    return said


def exam(kind: str, n: int, seed: int = 1_000_003) -> list[Task]:
    """`n` tasks of a kind, about stories of a seed that nothing is trained on.

    "tale", "poem" and "dialogue" ask for a text; "holder", "first", "who", "home" and "away" ask
    about a tale that is part of the prompt.
    """
    rng = random.Random(seed)
    tasks = []
    for story in stories(40 * n, seed=seed):
        if story.facts.form == kind:
            tasks.append(request(story, rng))
        elif story.facts.form == "tale":
            asked = [task for task in questions(story, rng) if task.kind == kind]
            tasks += [Task(t.kind, with_text(story, t), t.answer, t.is_right) for t in asked[:1]]
        if len(tasks) == n:
            return tasks
    raise ValueError(f"{len(tasks)} of {n} tasks of kind {kind!r}: unknown kind, or n below 1")


def score(
    model: GPT, tokenizer: BPETokenizer, tasks: list[Task], temperature: float = TEMPERATURE
) -> float:
    """The share of tasks that the assistant does right."""
    generator = torch.Generator().manual_seed(0)
    said = replies(model, tokenizer, [task.prompt for task in tasks], temperature, generator)
    return sum(task.is_right(reply) for task, reply in zip(tasks, said, strict=True)) / len(tasks)
