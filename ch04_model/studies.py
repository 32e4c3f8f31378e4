"""Small experiments for this chapter: tiny models, a few hundred steps, texts of the story world.

The training loop is the shortest that will do, with `torch.optim`; chapter 5 builds a real one.
`python -m ch04_model.studies` runs the comparison of recipes that the chapter plots, three seeds of
each, and writes it to `recipes.json`.

Shapes: B batch, T time, C d_model, V vocabulary.
"""

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ch01_overview.corpus import Story, stories
from ch01_overview.files import write_whole
from ch01_overview.study import conditions
from ch02_tokenization.tokenizer import END_OF_TEXT, BPETokenizer, train_bpe
from ch04_model.model import GPT, GPTConfig

__all__ = [
    "StoryData",
    "story_data",
    "windows",
    "whole_texts",
    "recipes",
    "train",
    "validation_loss",
    "initialise",
    "scale_by_depth",
]

RESULTS = Path(__file__).with_name("recipes.json")
SIZES = {"context_length": 128, "n_layers": 4, "n_heads": 4, "d_model": 64}
STEPS, BATCH_SIZE, LEARNING_RATE, SEEDS = 300, 8, 4e-3, (0, 1, 2)
RATES = (4e-3, 8e-3)  # each recipe is run with the better of them, by the first seed
N_VALIDATION = 100
PADDING = -100  # after the end of a text; no loss is taken there


@dataclass(frozen=True)
class StoryData:
    """Texts as token ids, each closed by the end-of-text id."""

    tokenizer: BPETokenizer
    train: Int[Tensor, "N"]
    validation: Int[Tensor, "M"]
    bytes_per_token: float  # of the validation texts; an end of text is a token without bytes
    floor: float  # nats per token of the validation texts by their true probabilities

    @property
    def end(self) -> int:
        """The id that ends a text, and after which a new one begins."""
        return self.tokenizer.special_ids[END_OF_TEXT]


def story_data(n: int = 3000, form: str | None = None, vocab_size: int = 512) -> StoryData:
    """The texts among `n` stories that have the `form` ("tale", "poem", "dialogue"), or all.

    The last of them are for validation. The tokenizer learns from the others.
    """
    told = [story for story in stories(n, seed=4) if form in (None, story.facts.form)]
    first, last = told[:-N_VALIDATION], told[-N_VALIDATION:]
    tokenizer = train_bpe([story.text for story in first], vocab_size, [END_OF_TEXT])
    validation = _ids(last, tokenizer)
    # Who knows the form has less to guess: P(text | form) = P(text) / P(form).
    nats = -sum(story.log_prob for story in last) + len(last) * math.log(len(told) / n)
    n_bytes = sum(len(story.text.encode()) for story in last)
    return StoryData(
        tokenizer,
        _ids(first, tokenizer),
        validation,
        n_bytes / len(validation),
        nats / len(validation),
    )


def _ids(told: list[Story], tokenizer: BPETokenizer) -> Int[Tensor, "N"]:
    end, engine = tokenizer.special_ids[END_OF_TEXT], tokenizer.to_tiktoken()
    return torch.tensor([i for story in told for i in (*engine.encode(story.text), end)])


def recipes(vocab_size: int, **sizes: int) -> dict[str, GPTConfig]:
    """GPT-2's recipe, the same with one thing changed at a time, and today's, all of one size."""
    sizes = {"vocab_size": vocab_size, **SIZES, **sizes}
    changes = {
        "RMS norm": {"norm": "rms"},
        "no biases": {"bias": False},
        "SwiGLU": {"activation": "swiglu"},
        "rotary positions": {"positions": "rotary"},
        "normed queries and keys": {"qk_norm": True},
    }
    return {
        "GPT-2 (2019)": GPTConfig.gpt2(**sizes),
        **{name: GPTConfig.gpt2(**sizes, **change) for name, change in changes.items()},
        "today's (Qwen3)": GPTConfig(**sizes),
    }


def windows(ids: Int[Tensor, "N"], length: int, step: int = 1) -> Int[Tensor, "rows length"]:
    """A row of `length` ids for every `step`-th place to begin; a view, without a copy."""
    return ids.unfold(0, length, step)


def whole_texts(ids: Int[Tensor, "N"], end: int) -> Int[Tensor, "texts length"]:
    """A row for each text, from the `end` that stands before it to its own, then PADDING."""
    ends = (ids == end).nonzero()[:, 0] + 1
    texts = ids.tensor_split(ends.tolist())[:-1]  # what follows the last end is empty
    begun = [torch.cat((ids.new_tensor([end]), text)) for text in texts]
    return nn.utils.rnn.pad_sequence(begun, batch_first=True, padding_value=PADDING)


def _loss(model: GPT, rows: Int[Tensor, "B length"]) -> Float[Tensor, ""]:
    rows = rows[:, : (rows != PADDING).sum(1).max()]
    logits = model(rows[:, :-1].clamp(min=0))  # what stands for padding is seen by no text
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=PADDING)


def train(
    model: GPT,
    rows: Int[Tensor, "rows length"],
    steps: int,
    batch_size: int = BATCH_SIZE,
    lr: float = LEARNING_RATE,
    seed: int = 0,
) -> list[float]:
    """Train with AdamW on rows drawn at random; the loss of each step, in nats per token.

    The learning rate climbs for a tenth of the steps, then falls to zero in a straight line.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(10 * (step + 1), (steps - step) / 0.9) / steps
        loss = _loss(model, rows[torch.randint(len(rows), (batch_size,), generator=generator)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def validation_loss(model: GPT, rows: Int[Tensor, "rows length"]) -> float:
    """The mean over all tokens of `rows` that are no padding, in nats per token."""
    counts = (rows[:, 1:] != PADDING).sum(1).tolist()
    losses = [_loss(model, row[None]).item() for row in rows]
    return sum(n * loss for n, loss in zip(counts, losses, strict=True)) / sum(counts)


@torch.no_grad()
def initialise(model: GPT, scheme: str, seed: int = 0) -> None:
    """Draw the blocks' matrices anew: "naive", "1/sqrt(d)", "gpt2" or "zero".

    "naive" draws from N(0, 1), "1/sqrt(d)" from N(0, 1/d) with d the row's length, "zero" does too,
    but leaves the matrices that add to the residual stream at 0. Biases are 0 in all of them.

    Raises: ValueError for any other scheme.
    Source: Radford et al. 2019, section 2.3 ("gpt2"); Zhang et al. 2019, "Fixup Initialization"
    (arXiv:1901.09321), section 3 ("zero").
    """
    if scheme not in ("naive", "1/sqrt(d)", "gpt2", "zero"):
        raise ValueError(f"unknown scheme {scheme!r}")
    generator = torch.Generator().manual_seed(seed)
    for name, matrix in model.blocks.named_parameters():
        adds_to_stream = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
        if name.endswith("bias"):
            nn.init.zeros_(matrix)
        elif matrix.ndim == 2:
            std = {"naive": 1.0, "gpt2": 0.02}.get(scheme, matrix.shape[1] ** -0.5)
            if adds_to_stream and scheme == "gpt2":
                std /= (2 * model.config.n_layers) ** 0.5
            if adds_to_stream and scheme == "zero":
                std = 0.0
            nn.init.normal_(matrix, std=std, generator=generator)


def scale_by_depth(
    model: GPT, ids: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "layers"], Float[Tensor, "layers"]]:
    """The root mean square of the stream after each block, and of the loss's gradient there."""
    streams = []

    def keep(_block, _arguments, stream):
        stream.retain_grad()
        streams.append(stream)

    hooks = [block.register_forward_hook(keep) for block in model.blocks]
    F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return (
        torch.stack([x.detach().square().mean().sqrt() for x in streams]),
        torch.stack([x.grad.square().mean().sqrt() for x in streams]),
    )


def main() -> None:
    """Train every recipe at its best rate with every seed, and write how and what to a file."""
    data, runs = story_data(), []
    for name, config in recipes(data.tokenizer.vocab_size).items():
        tried = [_run(data, name, config, SEEDS[0], lr) for lr in RATES]
        best = min(tried, key=lambda run: run["validation"])
        runs += [best, *(_run(data, name, config, seed, best["rate"]) for seed in SEEDS[1:])]
    write_whole(RESULTS, json.dumps(_conditions(data) | {"runs": runs}) + "\n")


def _run(data: StoryData, name: str, config: GPTConfig, seed: int, lr: float) -> dict:
    torch.manual_seed(seed)
    model, T = GPT(config), SIZES["context_length"]
    losses = train(model, windows(data.train, T + 1), STEPS, BATCH_SIZE, lr, seed)
    loss = validation_loss(model, windows(data.validation, T + 1, step=T))
    print(f"{name:24} rate {lr}, seed {seed}: {loss:.4f} nats per token", flush=True)
    return {
        "recipe": name,
        "seed": seed,
        "rate": lr,
        "parameters": model.n_parameters,
        "validation": loss,
        "train": [round(x, 4) for x in losses],
    }


def _conditions(data: StoryData) -> dict:
    return {
        **conditions("python -m ch04_model.studies"),
        "corpus_sha256": hashlib.sha256(data.train.numpy().tobytes()).hexdigest(),
        "sizes": SIZES,
        "steps": STEPS,
        "batch_size": BATCH_SIZE,
        "rates_tried": RATES,
        "seeds": SEEDS,
        "bytes_per_token": data.bytes_per_token,
        "floor": data.floor,
    }


if __name__ == "__main__":
    sys.exit(main())
