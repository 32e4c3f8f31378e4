"""The checks of chapter 4's exercises: what is tried, and what should come out."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ch01_overview.checking import checked, expect, require
from ch04_model import solutions
from ch04_model.model import GPT, GPTConfig

V, CONTEXT = 37, 23
SIZES = {"vocab_size": V, "context_length": CONTEXT, "n_layers": 3, "d_ff": 17}
CONFIGS = {
    "GPT-2's recipe": GPTConfig.gpt2(**SIZES, n_heads=5, d_model=35),
    "GPT-2's, with a head of its own": GPTConfig.gpt2(**SIZES, n_heads=5, d_model=35, tied=False),
    "Llama's": GPTConfig.llama(**SIZES, n_heads=6, n_kv_heads=2, d_model=42, head_dim=14),
    "Qwen3's": GPTConfig.qwen3(**SIZES, n_heads=6, n_kv_heads=3, d_model=11, head_dim=14),
    "a mixture": GPTConfig(**SIZES, n_heads=2, d_model=22, head_dim=10, norm="layer", bias=True),
}


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _unchanged(answer: Callable, *arguments: torch.Tensor) -> Any:
    """What `answer` returns; it must leave its arguments as they were."""
    copies = [argument.clone() for argument in arguments]
    returned = answer(*arguments)
    for argument, copy in zip(arguments, copies, strict=True):
        require(
            torch.equal(argument, copy),
            "the arguments stay as they were",
            "x += ... changes the caller's tensor; x = x + ... makes a new one.",
        )
    return returned


@checked
def check_rms_norm(rms_norm: Callable) -> None:
    """A row by pencil, several axes, zeros, a large eps, and float16."""
    ones = torch.ones(2)
    row = torch.tensor([1.0, 7.0])
    expect(rms_norm(row, ones, 0.0), row / 5, "rms_norm((1, 7), (1, 1), 0)", "The RMS is 5.")
    x, weight = 3 * _numbers(2, 3, 7) + 1, _numbers(7, seed=1)
    for eps in (1e-6, 0.5):
        expect(
            _unchanged(lambda x, w, eps=eps: rms_norm(x, w, eps), x, weight),
            F.rms_norm(x, (7,), weight, eps),
            f"the norm of rows of 7 numbers, eps {eps}",
            "Mean over the last axis, with keepdim; eps goes inside the root; then the weight.",
        )
    zeros = torch.zeros(2, 2)
    expect(rms_norm(zeros, ones, 1e-6), zeros, "rows of zeros", "eps belongs inside the root.")
    expect(
        rms_norm(torch.tensor([[300.0, -300.0]], dtype=torch.float16), ones.half(), 1e-6),
        torch.tensor([[1.0, -1.0]], dtype=torch.float16),
        "rms_norm((300, -300)) in float16",
        "300² does not fit into float16: square in float32, and return x's dtype.",
    )


@checked
def check_layer_norm(layer_norm: Callable) -> None:
    """A row by pencil, several axes, a large eps."""
    one, zero = torch.ones(2), torch.zeros(2)
    expect(
        layer_norm(torch.tensor([1.0, 7.0]), one, zero, 0.0),
        torch.tensor([-1.0, 1.0]),
        "layer_norm((1, 7))",
        "The mean is 4, the deviations are -3 and 3, their root mean square is 3.",
    )
    x, weight, bias = 3 * _numbers(2, 3, 7) + 1, _numbers(7, seed=1), _numbers(7, seed=2)
    for eps in (1e-5, 0.5):
        expect(
            _unchanged(lambda x, w, b, eps=eps: layer_norm(x, w, b, eps), x, weight, bias),
            F.layer_norm(x, (7,), weight, bias, eps),
            f"the norm of rows of 7 numbers, eps {eps}",
            "Divide by C, not C - 1; eps inside the root; weight first, then bias.",
        )


@checked
def check_gelu_tanh(gelu_tanh: Callable) -> None:
    """Against torch's, from far below to far above 0."""
    x = torch.linspace(-7, 7, 141).view(3, 47)
    expect(
        _unchanged(gelu_tanh, x),
        F.gelu(x, approximate="tanh"),
        "gelu_tanh from -7 to 7",
        "0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x³))): mind the cube, and the sum in brackets.",
    )


@checked
def check_swiglu(swiglu: Callable) -> None:
    """By pencil, and with matrices whose sizes all differ."""
    one = torch.ones(1, 1)
    expect(
        swiglu(torch.tensor([[4.0]]), one, one, one),
        torch.tensor([[15.712220]]),
        "swiglu of 4 when all matrices are 1",
        "SiLU(4) = 4 / (1 + e^-4) = 3.928, times 4.",
    )
    x, gate, up, down = (_numbers(*shape) for shape in ((2, 3, 5), (11, 5), (11, 5), (5, 11)))
    up = _numbers(11, 5, seed=1)
    expect(
        _unchanged(swiglu, x, gate, up, down),
        (F.silu(x @ gate.T) * (x @ up.T)) @ down.T,
        "swiglu from width 5 through 11 to 5",
        "The curve goes on x @ gate.T alone. torch stores matrices as (outputs, inputs).",
    )


@checked
def check_pre_norm(pre_norm: Callable) -> None:
    """Two parts whose order and whose inputs matter."""
    x, weight, other = _numbers(2, 3, 5), _numbers(5, 5, seed=1), _numbers(5, 5, seed=2)
    norms = [nn.RMSNorm(5, eps=1e-6), nn.LayerNorm(5)]
    parts = [(norms[0], lambda h: h @ weight), (norms[1], lambda h: (h @ other).relu())]
    expected = x + F.rms_norm(x, (5,), eps=1e-6) @ weight
    expected = expected + (F.layer_norm(expected, (5,)) @ other).relu()
    expect(
        _unchanged(lambda x: pre_norm(x, parts), x).detach(),
        expected,
        "two parts, one after the other",
        "x + part(norm(x)), and the next part reads what the first has added. Do not use +=.",
    )
    expect(pre_norm(x, []), x, "no parts at all", "Then the stream is as it was.")


@checked
def check_initial_std(initial_std: Callable) -> None:
    """Every matrix of a block, at two depths."""
    for n_layers in (2, 48):
        for name in ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down"):
            expect(
                initial_std(f"blocks.1.{name}.weight", n_layers),
                solutions.initial_std(f"blocks.1.{name}.weight", n_layers),
                f"initial_std of {name} in a model of {n_layers} layers",
                "0.02 for all; divided by sqrt(2 n_layers) for the two that add to the stream.",
            )
    expect(
        initial_std("head.weight", 5),
        0.02,
        "initial_std of the head",
        "GPT-2's head is tied: it is the embedding, which adds to no stream.",
    )


@checked
def check_count_parameters(count_parameters: Callable) -> None:
    """Four recipes and a mixture, against the models themselves."""
    hints = {
        "GPT-2's recipe": "Biases have as many numbers as a matrix has outputs; positions count.",
        "GPT-2's, with a head of its own": "An untied head is one more V x C, without a bias.",
        "Llama's": "qkv has (H + 2K) D outputs. SwiGLU has three matrices, an RMS norm one vector.",
        "Qwen3's": "Normed queries and keys add two norms of head_dim to every layer.",
        "a mixture": "Ask the config for each thing on its own: norm, bias, gate, qk_norm.",
    }
    for name, config in CONFIGS.items():
        with torch.device("meta"):
            expected = GPT(config).n_parameters
        expect(
            count_parameters(config), expected, f"the parameters of {name}: {config}", hints[name]
        )


@checked
def check_cache_bytes(cache_bytes: Callable) -> None:
    """Against a real cache, and for a model too large to build."""
    for config in CONFIGS.values():
        cache = GPT(config).new_cache(5)
        expect(
            cache_bytes(config, CONTEXT, 5, 4),
            cache.keys.nbytes + cache.values.nbytes,
            f"the cache of 5 texts of {CONTEXT} tokens, float32: {config}",
            "Keys and values; every layer; key/value heads (not query heads) times head_dim.",
        )
    large = GPTConfig.llama(
        vocab_size=32000, n_layers=32, n_heads=32, n_kv_heads=8, d_model=4096, context_length=4096
    )
    expect(
        cache_bytes(large, 4096, 1, 2),
        536_870_912,
        "the cache of 4096 tokens in bfloat16, 32 layers, 8 key/value heads of 128",
        "2 · 32 · 8 · 128 numbers a token, 2 bytes each.",
    )


@checked
def check_decoding_flops(decoding_flops: Callable) -> None:
    """Two recipes, for the first token and for a later one."""
    hint = "2 per number of each matrix, head included; 4 H D per key in each layer, itself too."
    tiny = GPTConfig(
        **{"vocab_size": 2, "context_length": 8, "n_layers": 1, "n_heads": 1, "d_model": 2},
        **{"d_ff": 3, "activation": "gelu"},
    )
    # qkv 2·6, out 2·2, up and down 2·3 each: 28 numbers. Head 2·2. Attention: 4·2 for one key.
    expect(
        decoding_flops(tiny, 0),
        2 * 28 + 8 + 2 * 4,
        f"the first token of a tiny model: {tiny}",
        hint,
    )
    for name, config in CONFIGS.items():
        for n_before in (0, 19):
            expect(
                decoding_flops(config, n_before),
                solutions.decoding_flops(config, n_before),
                f"a token after {n_before} others, {name}",
                hint,
            )


@checked
def check_top_p(top_p: Callable) -> None:
    """By pencil, in any order, and against `transformers`' rule on random rows."""
    hint = "Sort, cumulate, keep the token that crosses p, restore the order, divide by the sum."
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    for p, kept in ((0.6, [0, 4, 0, 3]), (0.75, [0, 4, 2, 3]), (1e-9, [0, 4, 0, 0])):
        expected = torch.tensor([kept]) / sum(kept)
        expect(top_p(probs, p), expected, f"top_p((0.1, 0.4, 0.2, 0.3), {p})", hint)
    expect(top_p(probs, 1.0), probs, "top_p with p = 1", "Then nothing is cut.")
    rows = (2 * _numbers(5, 31)).softmax(-1)
    for p in (0.3, 0.9):
        expected = solutions.top_p(rows, p)
        expect(_unchanged(lambda x, p=p: top_p(x, p), rows), expected, f"5 rows, p = {p}", hint)


@checked
def check_min_p(min_p: Callable) -> None:
    """By pencil, and rows that have different maxima."""
    hint = "The bar is p times the largest probability of the same row; then divide by the sum."
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.85, 0.05, 0.05, 0.05]])
    expected = torch.tensor([[0, 0.4, 0.2, 0.3], [1.0, 0, 0, 0]]) / torch.tensor([[0.9], [1.0]])
    expect(_unchanged(lambda x: min_p(x, 0.45), probs), expected, "two rows, p = 0.45", hint)
    expect(min_p(probs, 0.0), probs, "min_p with p = 0", "Then nothing is cut.")


@checked
def check_greedy(greedy: Callable) -> None:
    """The slow rule, for every recipe; and how much the model had to read."""
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = GPT(config).requires_grad_(False)
        for weights in model.parameters():
            weights += torch.randn_like(weights) / 3
        prompt = torch.randint(V, (2, 5), generator=torch.Generator().manual_seed(1))
        expected = prompt
        for _ in range(7):
            expected = torch.cat((expected, model(expected)[:, -1:].argmax(-1)), dim=1)
        read = []
        model.token_embedding.register_forward_hook(lambda _, x, y, n=read: n.append(x[0].shape[1]))
        written = _unchanged(lambda ids, m=model: greedy(m, ids, 7), prompt)
        hint = "The whole prompt and what was written, a row each; always the likeliest token."
        expect(written, expected, f"7 tokens after a prompt of 5, {name}", hint)
        require(
            sum(read) <= 5 + 7,
            f"the model reads each token once (it read {sum(read)} for 5 + 7)",
            "Make model.new_cache(len(ids)) once, and pass only what it has not read.",
        )
    require(greedy(model, prompt, 0).equal(prompt), "no new tokens leave the prompt", "n may be 0.")
