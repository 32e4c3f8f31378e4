"""Gradients against differences, losses that order must not change, caches, and memory."""

import random
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import gradcheck

from appendix_performance import parallel
from appendix_performance.checkpointing import checkpoint, checkpointed
from ch03_attention import attention
from ch03_attention.attention import MultiHeadAttention
from ch03_attention.one_layer import OneLayer
from ch04_model.generation import generate, stream
from ch04_model.model import GPT, FeedForward, GPTConfig, LayerNorm, RMSNorm, TransformerBlock
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.evaluation import IGNORED, evaluate
from ch05_pretraining.loop import cross_entropy, train
from ch05_pretraining.optimizers import orthogonalize
from ch06_alignment import alignment
from ch06_alignment.alignment import RewardModel
from ch06_alignment.lora import LoRALinear
from tests.torture import Attempts, row
from tests.torture.child import rss
from tests.torture.small import tiny_gpt

SIZES = {"vocab_size": 11, "context_length": 7, "n_layers": 1, "d_model": 6}
RECIPES = {
    "Qwen3": GPTConfig.qwen3(**SIZES, n_heads=3, n_kv_heads=1, head_dim=4),
    "Llama": GPTConfig.llama(**SIZES, n_heads=3),
    "GPT-2": GPTConfig.gpt2(**SIZES, n_heads=3),
}


def _functions(rng: random.Random) -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]:
    """(name, function, inputs to differentiate by), all in float64 and of random values."""

    def new(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    def bits(*shape: int) -> Tensor:
        mask = torch.rand(shape) < 0.6
        mask[..., -1] = True
        return mask

    def of(name: str, module: nn.Module, *inputs: Tensor) -> tuple:
        """A module, by its inputs and by its weights."""
        module, free = module.double(), [x for x in inputs if x.requires_grad]
        for p in module.parameters():
            nn.init.normal_(p)
        constants = inputs[len(free) :]
        return (
            name,
            lambda *values: module(*values[: len(free)], *constants),
            [
                *free,
                *module.parameters(),
            ],
        )

    B, H, K, T, D, V = 2, 4, 2, 3, 4, 5
    q, k, v, mask = new(B, H, T, D), new(B, K, T, D), new(B, K, T, D), bits(T, T)
    cos, sin = (table.double() for table in attention.rope_cache(D, T))
    ids = torch.randint(SIZES["vocab_size"], (B, T))
    targets = torch.randint(V, (B, T))
    targets[0, rng.randrange(T)] = IGNORED
    yield "attention_weights", partial(attention.attention_weights, mask=mask), [q, k]
    by_hand = attention.scaled_dot_product_attention
    yield "scaled_dot_product_attention", partial(by_hand, mask=mask), [q, k, v]
    yield "apply_rope", lambda x: attention.apply_rope(x, cos, sin), [q]
    layer = MultiHeadAttention(6, 2, 1, 4, bias=True, qk_norm=RMSNorm)
    yield of("MultiHeadAttention", layer, new(B, T, 6))
    yield of("OneLayer", OneLayer(11, 8, 2, 7), ids)
    yield of("RMSNorm", RMSNorm(6), new(B, T, 6))
    yield of("LayerNorm", LayerNorm(6), new(B, T, 6))
    for name, config in RECIPES.items():
        yield of(f"FeedForward, {name}", FeedForward(config), new(B, T, 6))
        yield of(f"GPT, {name}", GPT(config), ids)
    block = TransformerBlock(RECIPES["GPT-2"])
    yield of("TransformerBlock", block, new(B, T, 6))
    yield "cross_entropy", lambda x: cross_entropy(x, targets), [new(B, T, V)]
    yield "orthogonalize", partial(orthogonalize, dtype=torch.float64), [new(3, 2)]

    model, marked = GPT(RECIPES["Llama"]), bits(B, T)
    marked[:, 0] = False
    for function in (alignment.token_logps, alignment.sequence_logps, alignment.sft_loss):
        more = () if function is alignment.token_logps else (marked,)
        name, run, inputs = of(function.__name__, _Of(function, model), ids, *more)
        yield name, run, inputs
    yield of("RewardModel", RewardModel(GPT(RECIPES["Llama"])), ids, marked)
    yield "preference_loss", alignment.preference_loss, [new(B), new(B)]
    yield "implicit_reward", partial(alignment.implicit_reward, beta=0.3), [new(B), new(B)]
    yield "dpo_loss", partial(alignment.dpo_loss, beta=0.3), [new(B) for _ in range(4)]
    yield "group_advantages", alignment.group_advantages, [new(B, 3)]
    yield (
        "grpo_loss",
        lambda *logps: alignment.grpo_loss(*logps, mask=marked, clip=0.2, beta=0.1),
        [new(B, T), new(B, T), new(B, T), new(B)],
    )
    yield of("LoRALinear", _Trained(LoRALinear(nn.Linear(4, 3), 2, 1.5)), new(B, 4))
    weight = new(4, 4)
    yield (
        "checkpoint (Recompute)",
        lambda x, w: checkpoint(lambda y: (y @ w).tanh(), x, [w]),
        [new(3, 4), weight],
    )
    yield of("checkpointed GPT", _Checkpointed(GPT(RECIPES["Llama"])), ids)
    yield "_ToAll", parallel._ToAll.apply, [new(3, 4)]
    yield "_FromAll", parallel._FromAll.apply, [new(3, 4)]


class _Of(nn.Module):
    """A function of a model, as a module."""

    def __init__(self, function: Callable, model: nn.Module):
        super().__init__()
        self.function, self.model = function, model

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(self.model, *arguments)


class _Trained(nn.Module):
    """A layer whose frozen weights are to have gradients too."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class _Checkpointed(nn.Module):
    """A model that computes its blocks twice."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        with checkpointed(self.model):
            return self.model(ids)


@row("numbers", "gradients against differences, float64", attempts=90, quick=3)
def gradients(rng: random.Random, n: int) -> Attempts:
    """torch's gradcheck of every function and module that is written by hand."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    names, done = set(), 0
    while done < n:
        for name, function, inputs in rng.sample(all_ := list(_functions(rng)), min(n, len(all_))):
            names.add(name)
            done += 1
            try:
                # Of many numbers, the derivative along random directions: else it takes an hour.
                gradcheck(function, inputs, fast_mode=sum(x.numel() for x in inputs) > 50)
                yield None
            except Exception as error:
                yield f"{name}: {str(error)[:300]}"
    dist.destroy_process_group()
    return f"{len(names)} functions and modules, by inputs and weights"


def _close(a: Tensor | float, b: Tensor | float) -> bool:
    rtol = 1e-10 if isinstance(a, Tensor) else 1e-6  # `evaluate` has its logits in float32
    return torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=rtol, atol=1e-12)


@row("numbers", "losses, in any order and with padding", attempts=200, quick=5)
def invariance(rng: random.Random, n: int) -> Attempts:
    """In float64, so that only the order of a sum is left to differ."""
    torch.set_default_dtype(torch.float64)
    for _ in range(n):
        model = tiny_gpt(seed=rng.getrandbits(30), vocab_size=37, context_length=29, n_layers=1)
        B, T, wide = rng.randrange(2, 6), rng.randrange(2, 17), rng.randrange(1, 9)
        ids, mask = torch.randint(37, (B, T)), torch.rand(B, T) < 0.5
        mask[:, 0], mask[:, -1] = False, True
        more, none = torch.randint(37, (B, wide)), torch.zeros(B, wide, dtype=torch.bool)
        padded, marked = torch.cat([ids, more], 1), torch.cat([mask, none], 1)
        order, reward = torch.randperm(B), RewardModel(model)
        nn.init.normal_(reward.head.weight)
        logits, targets = model(ids), ids.where(mask, IGNORED)
        logps = [torch.randn(B, T) for _ in range(3)]
        filler = torch.randn(B, wide) * 50
        signs = torch.randn(B)
        filled = [torch.cat([x, filler], 1) for x in logps]
        text = torch.randint(37, (rng.randrange(9, 90),))
        losses = {
            "cross_entropy": (
                cross_entropy(logits, targets),
                cross_entropy(logits[order], targets[order]),
                cross_entropy(model(padded), padded.where(marked, IGNORED)),
            ),
            "sft_loss": (
                alignment.sft_loss(model, ids, mask),
                alignment.sft_loss(model, ids[order], mask[order]),
                alignment.sft_loss(model, padded, marked),
            ),
            "sequence_logps": (
                alignment.sequence_logps(model, ids, mask)[order],
                alignment.sequence_logps(model, ids[order], mask[order]),
                alignment.sequence_logps(model, padded, marked)[order],
            ),
            "reward": (
                reward(ids, mask)[order],
                reward(ids[order], mask[order]),
                reward(padded, marked)[order],
            ),
            "grpo_loss": (
                alignment.grpo_loss(*logps, signs, mask, 0.2, 0.1),
                alignment.grpo_loss(
                    *[x[order] for x in logps], signs[order], mask[order], 0.2, 0.1
                ),
                alignment.grpo_loss(*filled, signs, marked, 0.2, 0.1),
            ),
            "evaluate": tuple(evaluate(model, text, 8, batch_size=b) for b in (1, B, 50)),
        }
        bad = [name for name, (a, b, c) in losses.items() if not (_close(a, b) and _close(a, c))]
        yield f"{', '.join(bad)} of {B} rows of {T}, {wide} filled up" if bad else None
    return "six losses each: rows in another order, columns filled up"


def _random_config(rng: random.Random) -> GPTConfig:
    n_kv_heads = rng.choice((1, 2, 3))
    n_heads, head_dim = n_kv_heads * rng.choice((1, 2, 3)), rng.choice((2, 4, 8))
    return GPTConfig(
        vocab_size=rng.randrange(2, 60),
        context_length=rng.randrange(2, 40),
        n_layers=rng.randrange(1, 4),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_model=n_heads * rng.choice((2, 4)),
        head_dim=head_dim,
        norm=rng.choice(("rms", "layer")),
        activation=rng.choice(("swiglu", "gelu")),
        positions=rng.choice(("rotary", "learned")),
        qk_norm=rng.random() < 0.5,
        bias=rng.random() < 0.5,
        tied=rng.random() < 0.5,
        rope_theta=rng.choice((10.0, 10_000.0, 1e6)),
    )


@row("numbers", "cached = uncached, any configuration", attempts=1000, quick=5)
@torch.no_grad()
def caching(rng: random.Random, n: int) -> Attempts:
    """Logits in pieces of any length are those of the whole; greedy text is the slow rule's."""
    worst = 0.0
    for _ in range(n):
        config = _random_config(rng)
        torch.manual_seed(rng.getrandbits(30))
        model, B = GPT(config), rng.randrange(1, 4)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        context = config.context_length
        ids = torch.randint(config.vocab_size, (B, rng.randrange(1, context + 1)))
        cache, parts, begin = model.new_cache(B), [], 0
        while begin < ids.shape[1]:
            end = rng.randrange(begin, ids.shape[1]) + 1
            parts.append(model(ids[:, begin:end], cache))
            begin = end
        whole = model(ids)
        worst = max(worst, ((torch.cat(parts, 1) - whole).abs().max() / whole.abs().max()).item())
        same = torch.allclose(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)
        lost = None if same else f"{config}, pieces of {[p.shape[1] for p in parts]}"
        text = generate(model, ids, rng.randrange(1, 2 * context + 2), temperature=0)
        yield lost or _off_the_slow_rule(model, ids, text)
    return f"logits differ by {worst:.0e} of the largest at most"


def _off_the_slow_rule(model: GPT, prompt: Tensor, text: Tensor) -> str | None:
    """Whether a token of a greedy text is not the best one, read without a cache.

    Two candidates that rounding cannot tell apart are both the best.
    """
    context, start = model.config.context_length, 0
    for t in range(prompt.shape[1], text.shape[1]):
        if t - start > context:
            start = t - max(1, context // 2)
        logits = model(text[:, start:t])[:, -1]
        chosen = logits.gather(-1, text[:, t, None])[:, 0]
        if (logits.amax(-1) - chosen > 1e-4 * (1 + logits.abs().amax(-1))).any():
            return f"{model.config}: token {t} is not the best of the slow rule"
    return None


MIB = 8  # by how much the memory of a process may grow, once it has started up


@row("numbers", "memory over training steps", attempts=10_000, quick=100)
def memory_of_training(rng: random.Random, n: int) -> Attempts:
    """No growth but the history, a row of numbers a step."""
    ids, sizes = torch.randint(37, (999,)), {"batch_size": 2, "context_length": 9}
    config = TrainConfig(steps=n, **sizes, eval_every=n // 4, precision="float32")
    model, at = tiny_gpt(vocab_size=37, n_layers=1), []

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        at.append(rss())
        begin = torch.randint(900, (2, 1), generator=generator) + torch.arange(10)
        return ids[begin][:, :-1], ids[begin][:, 1:]

    history = train(model, draw, config, val_ids=ids[:99])
    grown = at[-1] - at[n // 10]
    yield from [None] * (n - 1)
    yield None if grown < MIB else f"{grown:.1f} MiB more between step {n // 10} and {n}"
    return f"{grown:+.1f} MiB from step {n // 10:,} on, {len(history):,} rows of history included"


@row("numbers", "memory over generated tokens", attempts=10_000, quick=200)
def memory_of_generation(rng: random.Random, n: int) -> Attempts:
    """A stream keeps no more than the context."""
    model, at, seconds = tiny_gpt(), [], []
    for tokens in stream(model, torch.tensor([[1]]), n):
        at.append(rss())
        seconds.append(time.perf_counter())
        yield None if tokens.shape == (1,) else "not one token"
    grown = at[-1] - at[n // 10]
    early, late = seconds[n // 5] - seconds[n // 10], seconds[-1] - seconds[-1 - n // 10]
    if grown > MIB:
        yield f"{grown:.1f} MiB more between token {n // 10} and {n}"
    times = f"the last tenth took {late / early:.2f} times as long as the second"
    return f"{grown:+.1f} MiB from token {n // 10:,} on; {times}"
