"""Studies that take longer than a notebook may: each trains several models and writes a JSON.

    python -m ch06_alignment.studies seeds        # SFT, DPO and GRPO on every measure, three seeds
    python -m ch06_alignment.studies hacking      # GRPO for a learnt reward, with KL and without
    python -m ch06_alignment.studies thinking     # one answer at once, or every holder first
    python -m ch06_alignment.studies all --effort 2

`--effort` multiplies the number of steps; the files say which was used.
"""

import copy
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import process_time

import torch

from ch01_overview import study
from ch01_overview.corpus import stories
from ch02_tokenization.tokenizer import BPETokenizer
from ch04_model.model import GPT
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.recipes import PRESETS, held_out_stories, pretrained
from ch05_pretraining.small import fit
from ch06_alignment.alignment import RewardModel, sequence_logps
from ch06_alignment.finetune import CONFIG, assistant, batches, exam, finetune
from ch06_alignment.hands import hands_tasks
from ch06_alignment.instructions import Task, messages, questions, with_text
from ch06_alignment.measures import as_chat, calibration_error, chance_right
from ch06_alignment.replies import Replies, drift, frozen, mark, same_length, sample
from ch06_alignment.rl import (
    preference_pairs,
    reward_by,
    train_dpo,
    train_grpo,
    train_reward,
)

__all__ = [
    "KINDS",
    "drawer",
    "learn_tasks",
    "load_study",
    "loss_on_stories",
    "main",
    "sure_and_right",
    "think_score",
    "uncertain",
]

FOLDER = Path(__file__).with_name("studies")
KINDS = ("holder", "first", "who")  # the questions that preferences and rewards are about


def uncertain(
    model: GPT,
    tokenizer: BPETokenizer,
    n: int,
    seed: int,
    chances: tuple[float, float] = (0.1, 0.9),
) -> list[Task]:
    """Of questions about `n` new tales, those that `model` gets right now and then.

    Where it is always right, or never, its replies hold nothing to learn from.
    """
    rng, tasks = random.Random(seed), []
    for story in stories(3 * n, seed=seed):
        if story.facts.form == "tale" and len(story.text) < 700 and len(tasks) < n:
            asked = rng.choice([q for q in questions(story, rng) if q.kind in KINDS])
            tasks.append(Task(asked.kind, with_text(story, asked), asked.answer, asked.is_right))
    found = chance_right(model, as_chat(tasks, tokenizer)).tolist()
    low, high = chances
    return [task for task, chance in zip(tasks, found, strict=True) if low < chance < high]


def drawer(
    tasks: Sequence[Task], tokenizer: BPETokenizer, n: int = 8, alike: int = 2
) -> Callable[[torch.Generator], list[Task]]:
    """Draws `n` tasks, each time `alike` of one length: such are answered side by side.

    Raises:
        ValueError: if no two prompts are equally long.
    """
    groups = same_length(tasks, tokenizer, alike)
    if not groups:
        raise ValueError(f"no {alike} of the {len(tasks)} prompts are equally long")

    def draw(generator: torch.Generator) -> list[Task]:
        drawn = torch.randint(len(groups), (n // alike,), generator=generator)
        return [task for i in drawn.tolist() for task in groups[i]]

    return draw


def practice(
    model: GPT, tokenizer: BPETokenizer, seed: int
) -> tuple[list[Task], Replies, torch.Tensor]:
    """What an assistant practises on, and its own replies to that with their marks."""
    tasks = uncertain(model, tokenizer, 800, seed=101 + seed)
    generator = torch.Generator().manual_seed(seed)
    said = sample(model, tokenizer, [t.prompt for t in tasks], 8, generator=generator)
    return tasks, said, mark(said, tasks)


def sure_and_right(
    model: GPT, tokenizer: BPETokenizer, tasks: Sequence[Task]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The probability of the reply that always takes the likeliest token, and 1 if it is right."""
    likeliest = sample(model, tokenizer, [t.prompt for t in tasks], 1, temperature=0)
    parts = [likeliest.take(some) for some in torch.arange(len(tasks)).split(32)]
    with torch.no_grad():
        logps = [sequence_logps(model, part.ids, part.mask) for part in parts]
    return torch.cat(logps).exp(), mark(likeliest, tasks).flatten()


def loss_on_stories(model: GPT, tokenizer: BPETokenizer, n: int = 200) -> float:
    """Nats per token of held-out stories, as in chapter 5: what fine-tuning may forget."""
    held_out = held_out_stories(tokenizer)
    ids, window = held_out.val_ids[: int(held_out.val_starts[n]) + 1], PRESETS["book"].train
    return evaluate(model, ids, window.context_length, starts=held_out.val_starts[:n])


def card(model: GPT, reference: GPT, tokenizer: BPETokenizer, n: int, seed: int) -> dict:
    """Every measure of a model: what it answers and writes, what it forgot, how far it went."""
    kinds = ("holder", "first", "who", "home", "away")
    exams = {kind: exam(kind, n) for kind in (*kinds, "tale", "poem", "dialogue")}
    row: dict = {"right": {}, "right at 0.2": {}}
    generator = torch.Generator().manual_seed(seed)
    for kind, tasks in exams.items():
        for name, temperature in (("right", 1.0), ("right at 0.2", 0.2)):
            if kind in kinds:
                rows = as_chat(tasks, tokenizer)
                row[name][kind] = chance_right(model, rows, temperature).mean().item()
            else:
                told = sample(
                    *(model, tokenizer, [t.prompt for t in tasks], 1, temperature),
                    **{"longest": 300, "generator": generator},
                )
                row[name][kind] = mark(told, tasks).mean().item()
    sure, right = sure_and_right(model, tokenizer, [t for kind in kinds for t in exams[kind]])
    asked = [task for kind in KINDS for task in exam(kind, n // 2)]
    said = sample(model, tokenizer, [t.prompt for t in asked], 2, generator=generator)
    kl, entropy = drift(model, reference, said)
    return row | {
        "calibration error": calibration_error(sure, right),
        "loss on stories": loss_on_stories(model, tokenizer),
        "kl": kl.mean().item(),
        "entropy": entropy.mean().item(),
        "length": said.lengths.float().mean().item(),
    }


def seeds(effort: float) -> Iterable[dict]:
    """SFT, DPO and GRPO on every measure.

    A seed stands for an assistant trained anew, and for other tasks, samples and orders.
    """
    base, tokenizer = pretrained()
    for seed in range(3):
        model = copy.deepcopy(base)
        finetune(model, tokenizer, replace(CONFIG, seed=seed))
        reference = frozen(model)
        for name, policy in (("base", base), ("SFT", model)) if seed == 0 else (("SFT", model),):
            yield {"model": name, "seed": seed} | card(policy, reference, tokenizer, 60, seed)
        tasks, said, marks = practice(model, tokenizer, seed)
        policy, began = copy.deepcopy(model), process_time()
        train_dpo(
            *(policy, said, preference_pairs(marks)),
            **{"epochs": round(2 * effort), "seed": seed, "sft_weight": 0.2},
        )
        row = {"model": "DPO", "seed": seed, "cpu_seconds": round(process_time() - began)}
        yield row | card(policy, reference, tokenizer, 60, seed)
        policy, began = copy.deepcopy(model), process_time()
        history = train_grpo(
            *(policy, reference, tokenizer, drawer(tasks, tokenizer)),
            **{"rounds": round(60 * effort), "seed": seed, "lr": 5e-4, "beta": 0.1},
        )
        row = {"model": "GRPO", "seed": seed, "cpu_seconds": round(process_time() - began)}
        yield row | card(policy, reference, tokenizer, 60, seed) | {"history": _short(history)}


def _short(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: round(value, 4) for name, value in row.items()} for row in history]


def hacking(effort: float) -> Iterable[dict]:
    """GRPO on a learnt reward: with two strengths of the KL term, and without it."""
    model, tokenizer = assistant()
    tasks, said, marks = practice(model, tokenizer, 0)
    judge, reference = RewardModel(copy.deepcopy(model)), frozen(model)
    train_reward(judge, said, preference_pairs(marks))
    for value in (0.0, 1.0):
        policy = copy.deepcopy(model)
        history = train_grpo(
            *(policy, reference, tokenizer, drawer(tasks, tokenizer), reward_by(judge)),
            **{"rounds": round(60 * effort), "lr": 2e-3, "beta": value},
        )
        generator = torch.Generator().manual_seed(0)
        own = sample(policy, tokenizer, [t.prompt for t in tasks[:5]], 1, generator=generator)
        yield {"beta": value, "history": _short(history), "replies": own.texts}


def learn_tasks(
    model: GPT, tokenizer: BPETokenizer, tasks: Sequence[Task], steps: int, batch_size: int = 16
) -> list[float]:
    """Fine-tune `model`, in place, on tasks with their right answers; the loss of each step."""
    data = batches(
        [messages([t]) for t in tasks], tokenizer, batch_size, model.config.context_length
    )
    config = TrainConfig(
        steps=steps,
        batch_size=batch_size,
        muon_lr=CONFIG.muon_lr,
        adamw_lr=CONFIG.adamw_lr,
        decay=CONFIG.decay,
        weight_decay=0.0,
        precision="float32",
    )
    losses = fit(model, lambda g: data[int(torch.randint(len(data), (), generator=g))], config)
    model.eval()
    return losses


def think_score(
    model: GPT, tokenizer: BPETokenizer, n_changes: int, thinking: bool, n: int = 50
) -> float:
    """The share of right last sentences, always taking the likeliest token."""
    tasks = hands_tasks(n, [n_changes], 1_000_003 + n_changes, thinking)
    said = sample(model, tokenizer, [t.prompt for t in tasks], 1, temperature=0, longest=48)
    return mark(said, tasks).mean().item()


def thinking(effort: float) -> Iterable[dict]:
    """SFT shows up to four changes, GRPO practises up to six, up to eight are tested."""
    model, tokenizer = assistant()
    steps, tested = round(400 * effort), (1, 2, 3, 4, 5, 6, 7, 8)
    for how, writes in (("at once", False), ("written out", True)):
        policy = copy.deepcopy(model)
        losses = learn_tasks(
            policy, tokenizer, hands_tasks(16 * steps, range(1, 5), 7, writes), steps
        )
        row = {"answer": how, "stage": "SFT", "loss": losses[-1]}
        yield row | {"right": {k: think_score(policy, tokenizer, k, writes) for k in tested}}
        reference, tasks = frozen(policy), hands_tasks(2_400, range(1, 7), 8, writes)
        history = train_grpo(
            *(policy, reference, tokenizer, drawer(tasks, tokenizer)),
            **{"rounds": round(100 * effort), "n_samples": 16, "longest": 48, "lr": 1e-3},
        )
        row = {"answer": how, "stage": "GRPO", "kl": history[-1]["kl"]}
        yield row | {"right": {k: think_score(policy, tokenizer, k, writes) for k in tested}}


STUDIES = {f.__name__: f for f in (seeds, hacking, thinking)}


load_study = partial(study.load_study, FOLDER)
main = partial(study.run_studies, STUDIES, FOLDER, ("history",))


if __name__ == "__main__":
    sys.exit(main())
