"""How fast does the book learn? `python -m ch05_pretraining.benchmark` settles three claims.

The baseline of the first is nanoGPT's recipe for a laptop: a plain GPT-2 of 0.80 million parameters
that reads 2000 batches of 12 x 64 characters of Tiny Shakespeare, trained by torch's AdamW. It ends
near 1.886 nats a character. The second asks for what nanoGPT's recipe of 10.65 million parameters
reaches on an A100, 1.4697, within five minutes. The third is about the stories of chapter 1.

Seconds are those of all that learns: tokenizer, counts, training, but no evaluation. Losses are
over the whole last tenth of the text. Its tokens' nats are summed and divided by the characters, so
any tokenizer can be compared: the probability of a text is at least that of one way to cut it.

Shapes: B batch, T time, C d_model, V vocabulary, N training ids, M ids held out.

Source: Karpathy, github.com/karpathy/nanoGPT: README.md, train.py, config/train_shakespeare_char.py
"""

import math
import sys
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ch01_overview.benchmarking import Claim, report
from ch01_overview.corpus import load_text, train_val_split
from ch02_tokenization.tokenizer import train_bpe
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining.counts import counted_probabilities
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.loop import train
from ch05_pretraining.recipes import PRESETS, Preset, load_corpus
from ch05_pretraining.tokens import get_batch

__all__ = [
    "PlainGPT",
    "Result",
    "encode_letters",
    "encode_text",
    "main",
    "plain_recipe",
    "run_preset",
    "with_counts",
]

LAPTOP_LOSS, A100_LOSS = 1.8857, 1.4697  # nats a character, both nanoGPT's
ORDER = 5  # of the counts: the four tokens before are some eight characters
PLAIN = GPTConfig.gpt2(
    vocab_size=65, context_length=64, n_layers=4, n_heads=4, d_model=128, bias=False
)
PLAIN_STEPS, PLAIN_BATCH = 2_000, 12


@dataclass(frozen=True)
class Result:
    """What a recipe took and reached, in seconds and in nats per character of the held-out text."""

    seconds: float
    loss: float
    model: nn.Module | None

    def seconds_to(self, loss: float) -> float:
        """The seconds it took to reach `loss`; infinitely many if it did not."""
        return self.seconds if self.loss <= loss else math.inf


class PlainBlock(nn.Module):
    """A block of GPT-2 without biases, from torch.nn's own parts."""

    def __init__(self, C: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.c_attn, self.c_proj = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(C, 4 * C, bias=False), nn.GELU(), nn.Linear(4 * C, C, bias=False)
        )

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Attention, then the two layers; each adds to what it read."""
        B, T, C = x.shape
        heads = self.c_attn(self.ln_1(x)).view(B, T, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads, is_causal=True)  # (B, heads, T, head_dim)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp(self.ln_2(x))


class PlainGPT(nn.Module):
    """GPT-2, the head tied to the token embedding."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config, C = config, config.d_model
        self.wte = nn.Embedding(config.vocab_size, C)
        self.wpe = nn.Embedding(config.context_length, C)
        self.h = nn.Sequential(*(PlainBlock(C, config.n_heads) for _ in range(config.n_layers)))
        self.ln_f = nn.LayerNorm(C, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                last = name.endswith(("c_proj.weight", "mlp.2.weight"))
                nn.init.normal_(p, std=0.02 / (2 * config.n_layers) ** 0.5 if last else 0.02)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """The logits of the token after each of `ids`."""
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        return F.linear(self.ln_f(self.h(x)), self.wte.weight)


def plain_rate(step: int, steps: int) -> float:
    """Up to 0.001 in 100 steps, then down to a tenth of it by a cosine."""
    if step < 100:
        return 1e-3 * (step + 1) / 101
    return 1e-4 + 9e-4 * (1 + math.cos(math.pi * (step - 100) / (steps - 100))) / 2


def plain_recipe(train_text: str, val_text: str, steps: int = PLAIN_STEPS) -> Result:
    """nanoGPT's recipe for a laptop, step by step."""
    torch.manual_seed(1337)
    ids, val_ids = encode_letters(train_text, val_text, PLAIN.vocab_size)
    model, generator = PlainGPT(PLAIN), torch.Generator()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    gains = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    began = perf_counter()
    for step in range(steps):
        inputs, targets = get_batch(ids, PLAIN_BATCH, PLAIN.context_length, generator)
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(step, steps)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = perf_counter() - began
    return Result(seconds, evaluate(model, val_ids), model)


def encode_letters(
    train_text: str, val_text: str, vocab_size: int
) -> tuple[Int[Tensor, "N"], Int[Tensor, "M"]]:
    """Both parts as numbers of their characters; before the second stands the last of the first.

    Raises:
        ValueError: if there are more characters than `vocab_size`.
    """
    letters = {letter: i for i, letter in enumerate(sorted(set(train_text + val_text)))}
    if len(letters) > vocab_size:
        raise ValueError(f"{len(letters)} different characters, for {vocab_size} there is room")
    ids = torch.tensor([letters[letter] for letter in train_text])
    return ids, torch.tensor([letters[letter] for letter in train_text[-1] + val_text])


def encode_text(
    train_text: str, val_text: str, vocab_size: int
) -> tuple[Int[Tensor, "N"], Int[Tensor, "M"]]:
    """Both parts as ids of a tokenizer trained on the first.

    Before the held-out ids stands the last id of the others, so that each of them is predicted.
    """
    tokenizer = train_bpe(train_text, vocab_size).to_tiktoken()
    ids = torch.tensor(tokenizer.encode_ordinary(train_text))
    return ids, torch.tensor([ids[-1].item(), *tokenizer.encode_ordinary(val_text)])


def run_preset(train_text: str, val_text: str, preset: Preset) -> Result:
    """Tokenizer and model of a preset, made from nothing."""
    began = perf_counter()
    ids, val_ids = encode_text(train_text, val_text, preset.model.vocab_size)
    prepared = perf_counter() - began
    torch.manual_seed(preset.train.seed)
    model = GPT(preset.model)
    history = train(model, ids, preset.train)
    nats = evaluate(model, val_ids) * (len(val_ids) - 1)
    return Result(prepared + history[-1]["seconds"], nats / len(val_text), model)


def with_counts(network: Result, train_text: str, val_text: str) -> tuple[Result, Result]:
    """Counting alone; and the mean of what it expects and what a network does, token by token."""
    began = perf_counter()
    vocab_size = network.model.config.vocab_size
    ids, val_ids = encode_text(train_text, val_text, vocab_size)
    counted = counted_probabilities(ids.numpy(), val_ids[1:].numpy(), vocab_size, ORDER)
    seconds = perf_counter() - began
    mean = (counted + token_probabilities(network.model, val_ids).numpy()) / 2
    alone, both = (-np.log(p).sum() / len(val_text) for p in (counted, mean))
    return Result(seconds, alone, None), Result(network.seconds + seconds, both, network.model)


@torch.no_grad()
def token_probabilities(model: nn.Module, ids: Int[Tensor, "M"]) -> Float[Tensor, "M-1"]:
    """The probability of each id but the first, in windows that follow each other.

    They are those of `evaluate`, which returns the mean of their -log.
    """
    length = model.config.context_length
    parts = []
    for inputs, targets in zip(ids[:-1].split(length), ids[1:].split(length), strict=True):
        log_p = F.log_softmax(model(inputs[None])[0], dim=-1)
        parts.append(log_p.gather(1, targets[:, None])[:, 0].double().exp())
    return torch.cat(parts)


def story_recipe(preset: Preset) -> tuple[Result, float]:
    """A model of stories made from nothing, the stories themselves too; and the floor."""
    began = perf_counter()
    _, corpus = load_corpus("stories", preset)
    prepared = perf_counter() - began
    torch.manual_seed(preset.train.seed)
    model = GPT(replace(preset.model, vocab_size=corpus.vocab_size))
    history = train(model, corpus.train_ids, preset.train, starts=corpus.starts)
    loss = evaluate(model, corpus.val_ids, starts=corpus.val_starts)
    return Result(prepared + history[-1]["seconds"], loss, model), corpus.floor


def told(name: str, result: Result, unit: str = "nats a character") -> Result:
    """Print a line about `result`, and return it."""
    print(f"{name:<32} {result.seconds:7.1f} s {result.loss:8.4f} {unit}", flush=True)
    return result


def laptop_claim(texts: tuple[str, str]) -> Claim:
    """Ours is short, so it runs three times around theirs; the median counts."""
    ours = [run_preset(*texts, PRESETS["laptop"]) for _ in range(2)]
    theirs = told("nanoGPT's laptop recipe", plain_recipe(*texts))
    ours.append(run_preset(*texts, PRESETS["laptop"]))
    middle = told("our laptop recipe", sorted(ours, key=lambda run: run.seconds)[1])
    seconds = middle.seconds_to(LAPTOP_LOSS), theirs.seconds
    return Claim(f"s to {LAPTOP_LOSS}, nanoGPT's laptop recipe", *seconds, target=1 / 8)


def five_minutes_claim(texts: tuple[str, str]) -> Claim:
    """A network and counts; each alone is told too."""
    network = told("five minutes: the network alone", run_preset(*texts, PRESETS["five-minutes"]))
    counts, both = with_counts(network, *texts)
    told("five minutes: counts alone", counts)
    told("five minutes: the mean of both", both)
    return Claim(f"s to {A100_LOSS}, five minutes", both.seconds_to(A100_LOSS), 300)


def story_claim() -> Claim:
    """Stories, tokenizer and model."""
    result, floor = story_recipe(PRESETS["two-minutes"])
    told("the story model", result, f"nats a token, {result.loss / floor:.3f} x the floor")
    return Claim("s to 1.03 x the floor, two minutes", result.seconds_to(1.03 * floor), 120)


def main() -> int:
    """Settle all claims; returns the exit code."""
    texts = train_val_split(load_text("shakespeare"))
    claims = [laptop_claim(texts), five_minutes_claim(texts), story_claim()]
    print()
    return report(claims)


if __name__ == "__main__":
    sys.exit(main())
