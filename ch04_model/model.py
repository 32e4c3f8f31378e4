"""A language model: the Transformer of GPT-2 and that of today's Llama and Qwen3, as one class.

`GPT` maps token ids to logits, a score for every possible next token. The recipes of 2019 and of
today differ in a handful of fields of `GPTConfig`. There is no dropout: it is slow on CPUs, and
large models, which meet a text once, do without it too.

Shapes: B batch, T time, C d_model, D head_dim, V vocabulary.

Sources: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2); Zhang
and Sennrich 2019, "Root Mean Square Layer Normalization" (arXiv:1910.07467); Shazeer 2020, "GLU
Variants Improve Transformer" (arXiv:2002.05202); Touvron et al. 2023, "LLaMA" (arXiv:2302.13971);
Yang et al. 2025, "Qwen3 Technical Report" (arXiv:2505.09388).
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ch03_attention.attention import KVCache, MultiHeadAttention, rope_cache
from ch04_model.generation import generate, next_token_probabilities, stream

__all__ = [
    "GPTConfig",
    "RMSNorm",
    "LayerNorm",
    "FeedForward",
    "TransformerBlock",
    "GPT",
    "next_token_probabilities",
    "generate",
    "stream",
]

GPT2_SIZES = {  # n_layers, n_heads, d_model
    "124M": (12, 12, 768),
    "355M": (24, 16, 1024),
    "774M": (36, 20, 1280),
    "1.5B": (48, 25, 1600),
}


@dataclass(frozen=True)
class GPTConfig:
    """The sizes and the recipe of a model; the defaults are today's recipe at a laptop's size.

    A size that is None takes its usual value, so a finished config has numbers throughout:

    >>> GPTConfig(d_model=192, n_heads=6).head_dim
    32

    Raises: ValueError when a field is out of range or two do not fit together.
    """

    vocab_size: int = 1024
    context_length: int = 256
    n_layers: int = 4
    n_heads: int = 4
    n_kv_heads: int | None = None
    d_model: int = 128
    d_ff: int | None = None
    head_dim: int | None = None
    norm: str = "rms"  # or "layer"
    activation: str = "swiglu"  # or "gelu"
    positions: str = "rotary"  # or "learned"
    qk_norm: bool = True
    bias: bool = False
    tied: bool = True  # one matrix for tokens going in and coming out: it is much of a small model
    norm_eps: float = 1e-6
    rope_theta: float | int = 10_000.0

    def __post_init__(self):
        if self.head_dim is None and self.n_heads > 0 and self.d_model % self.n_heads:
            raise ValueError(
                f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}: give head_dim"
            )
        for name, value in self._usual().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)  # the way past `frozen`
        self._check()

    def _usual(self) -> dict[str, int]:
        # SwiGLU has three matrices where GELU has two, so at two thirds of the width it is as large
        # (Shazeer 2020, section 2); rounded up to whole vectors of eight numbers.
        d_ff = 8 * -(-self.d_model // 3) if self.activation == "swiglu" else 4 * self.d_model
        head_dim = self.d_model // max(1, self.n_heads)
        return {"n_kv_heads": self.n_heads, "head_dim": head_dim, "d_ff": d_ff}

    def _check(self) -> None:
        sizes = ("vocab_size", "context_length", "n_layers", "n_heads", "n_kv_heads", "d_model")
        sizes = (*sizes, "d_ff", "head_dim")
        for name in (*sizes, "norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value}")
            if value == float("inf"):
                raise ValueError(f"{name} must be finite, not {value}")
            if name in sizes and not isinstance(value, int):
                raise ValueError(f"{name} must be a whole number, not {value}")
        choices = {
            **dict.fromkeys(("qk_norm", "bias", "tied"), (True, False)),
            "norm": ("rms", "layer"),
            "activation": ("swiglu", "gelu"),
            "positions": ("rotary", "learned"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads {self.n_heads} is not divisible by n_kv_heads {self.n_kv_heads}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions turn pairs: head_dim {self.head_dim} must be even")

    @classmethod
    def gpt2(cls, size: str = "124M", **changes) -> "GPTConfig":
        """GPT-2 in a published size (124M, 355M, 774M or 1.5B), but for the fields in `changes`.

        Raises: ValueError for any other size.
        Source: Radford et al. 2019, section 2.3 and table 2, which counts 117M, 345M, 762M and
        1542M; the names are the corrected counts, the heads those of the released models.
        """
        if size not in GPT2_SIZES:
            raise ValueError(f"unknown size {size!r}: GPT-2 comes in {', '.join(GPT2_SIZES)}")
        recipe = {
            **dict(zip(("n_layers", "n_heads", "d_model"), GPT2_SIZES[size], strict=True)),
            **{"vocab_size": 50257, "context_length": 1024, "norm_eps": 1e-5, "bias": True},
            **{"norm": "layer", "activation": "gelu", "positions": "learned", "qk_norm": False},
        }
        return cls(**recipe | changes)

    @classmethod
    def llama(cls, **fields) -> "GPTConfig":
        """Llama's recipe at any size: queries and keys as they are, two matrices for the tokens."""
        return cls(**{"qk_norm": False, "tied": False, "norm_eps": 1e-5} | fields)

    @classmethod
    def qwen3(cls, **fields) -> "GPTConfig":
        """Qwen3's recipe at any size: the defaults, with the slower turns of a long context."""
        return cls(**{"rope_theta": 1_000_000.0} | fields)


class RMSNorm(nn.Module):
    """Divide a row by its root mean square, sqrt(mean(x²) + eps), and scale its columns.

    Raises: ValueError when `width` or `eps` is not positive.
    Source: Zhang and Sennrich 2019, equation 4; with eps where Llama has it.
    """

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        _check_norm(width, eps)
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        """The normed rows of `x`, in float32 or finer because squares overflow in float16."""
        # F.rms_norm is the same function. On CPUs its backward pass takes about twice as long.
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        mean_square = rows.square().mean(dim=-1, keepdim=True)
        return (rows * (mean_square + self.eps).rsqrt() * self.weight).type_as(x)


class LayerNorm(nn.Module):
    """Shift a row to mean 0, divide it by sqrt(mean(x²) + eps), scale and shift its columns.

    Raises: ValueError when `width` or `eps` is not positive.
    Source: Ba et al. 2016, "Layer Normalization" (arXiv:1607.06450), equation 4.
    """

    def __init__(self, width: int, eps: float = 1e-5):
        super().__init__()
        _check_norm(width, eps)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*rows C"]) -> Float[Tensor, "*rows C"]:
        """The normed rows of `x`, by one fused kernel for the formula above."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def _check_norm(width: int, eps: float) -> None:
    if width < 1 or not 0 < eps < float("inf"):
        raise ValueError(f"a norm's width {width} and eps {eps} must be positive and finite")


class FeedForward(nn.Module):
    """What a position does with what it has gathered: widen, bend, narrow.

    Source: Hendrycks and Gimpel 2016 (arXiv:1606.08415), section 2 (GELU by tanh); Shazeer 2020,
    equation 6 (SwiGLU).
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        C, d_ff, bias = config.d_model, config.d_ff, config.bias
        self.gate = nn.Linear(C, d_ff, bias) if config.activation == "swiglu" else None
        self.up = nn.Linear(C, d_ff, bias)
        self.down = nn.Linear(d_ff, C, bias)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """SwiGLU, in which one widened row scales another, or GPT-2's GELU."""
        if self.gate is not None:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        return self.down(F.gelu(self.up(x), approximate="tanh"))


def _norm(config: GPTConfig) -> partial:
    return partial(RMSNorm if config.norm == "rms" else LayerNorm, eps=config.norm_eps)


class TransformerBlock(nn.Module):
    """Attention, then a feed-forward layer; each reads a normed copy and adds to the original."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        norm = _norm(config)
        self.attention_norm = norm(config.d_model)
        self.attention = MultiHeadAttention(
            config.d_model,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            config.bias,
            qk_norm=norm if config.qk_norm else nn.Identity,
        )
        self.feed_forward_norm = norm(config.d_model)
        self.feed_forward = FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        rope: tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]] | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "B T C"]:
        """Add to `x` what its positions tell each other, then what each makes of it."""
        x = x + self.attention(self.attention_norm(x), rope, cache, layer)
        return x + self.feed_forward(self.feed_forward_norm(x))


class GPT(nn.Module):
    """A language model: embeddings, a stack of blocks, and a score for every token there is."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.position_embedding = nn.Embedding(config.context_length, config.d_model)
        else:
            cos, sin = rope_cache(config.head_dim, config.context_length, config.rope_theta)
            self.register_buffer("cos", cos, persistent=False)  # follows from the config
            self.register_buffer("sin", sin, persistent=False)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.norm = _norm(config)(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.token_embedding.weight
        self._initialise()

    def _initialise(self) -> None:
        """Draw matrices from N(0, 0.02²), as in GPT-2, but for two where the head is its own.

        The 2 n_layers of them that add to the residual stream start smaller by the root of their
        number, so that the sum does not grow with depth (Radford et al. 2019, section 2.3). A head
        of its own starts at zero: then every token is as likely as any other, and the embedding is
        free to start large, from N(0, 1), so that tokens are easily told apart.
        """
        for name, weights in self.named_parameters():
            adds_to_stream = name.endswith(("attention.out.weight", "feed_forward.down.weight"))
            if name.endswith("bias"):
                nn.init.zeros_(weights)
            elif weights.ndim == 2:
                std = 0.02 / (2 * self.config.n_layers) ** 0.5 if adds_to_stream else 0.02
                nn.init.normal_(weights, std=std)
        if not self.config.tied:
            nn.init.normal_(self.token_embedding.weight)
            nn.init.zeros_(self.head.weight)

    @property
    def n_parameters(self) -> int:
        """How many numbers training sets; a tied matrix counts once."""
        return sum(weights.numel() for weights in self.parameters())

    def new_cache(self, batch_size: int) -> KVCache:
        """An empty cache for `batch_size` sequences of up to `context_length` tokens."""
        c = self.config
        sizes = c.n_layers, batch_size, c.n_kv_heads, c.context_length, c.head_dim
        return KVCache(*sizes, like=self.head.weight)

    def forward(
        self, ids: Int[Tensor, "B T"], cache: KVCache | None = None
    ) -> Float[Tensor, "B T V"]:
        """The logits of the token after each of `ids`, which continue what is in the `cache`.

        Raises: ValueError for ids outside the vocabulary and for a sequence beyond the context.
        """
        return self.head(self.hidden_states(ids, cache))

    def hidden_states(
        self, ids: Int[Tensor, "B T"], cache: KVCache | None = None
    ) -> Float[Tensor, "B T C"]:
        """The last block's output, normed, from which `head` makes the logits.

        Raises: ValueError for ids outside the vocabulary and for a sequence beyond the context.
        """
        start = 0 if cache is None else cache.length
        end = start + ids.shape[1]
        if end > self.config.context_length:
            raise ValueError(
                f"a sequence of {end} tokens does not fit into the context of "
                f"{self.config.context_length}: shorten it"
            )
        x, rope = self._embed(ids), None
        if self.config.positions == "learned":
            x = x + self.position_embedding.weight[start:end]
        else:
            rope = self.cos[start:end], self.sin[start:end]
        for layer, block in enumerate(self.blocks):
            x = block(x, rope, cache, layer)
        return self.norm(x)

    def _embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        if ids.device != self.token_embedding.weight.device:  # torch would read some other memory
            where = self.token_embedding.weight.device
            raise ValueError(f"the ids are on {ids.device}, but the model is on {where}")
        if ids.is_cuda:  # there a bad id kills the process's use of the GPU, so look for one first
            self._refuse(ids)
        try:  # elsewhere the look-up notices one by itself, at no cost
            return self.token_embedding(ids)
        except IndexError:
            self._refuse(ids)
            raise

    def _refuse(self, ids: Int[Tensor, "B T"]) -> None:
        V = self.config.vocab_size
        for bad in ids[(ids < 0) | (ids >= V)].tolist()[:1]:
            raise ValueError(f"id {bad} is outside the vocabulary of {V} tokens") from None
