"""Is our model fast? `python -m ch04_model.benchmark` settles three claims.

Writing: 256 tokens, one at a time, by a Llama-shaped model of 8 layers x 256, against `generate` of
`transformers` on the same weights, and against ourselves without a key/value cache. Training: one
step of a small GPT-2, against the same model put together from torch.nn's parts. They do the same
arithmetic, and two runs of one program differ by some percent, so "no slower" allows for five.
"""

import sys
import tempfile
from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from ch01_overview.benchmarking import Claim, interleave, report
from ch02_tokenization.tokenizer import train_bpe
from ch04_model.huggingface import save_pretrained
from ch04_model.model import GPT, GPTConfig, generate

LLAMA = GPTConfig.llama(vocab_size=1024, context_length=512, n_layers=8, n_heads=8, d_model=256)
GPT2 = GPTConfig.gpt2(vocab_size=1024, context_length=128, n_layers=4, n_heads=4, d_model=256)
PROMPT, NEW_TOKENS, BATCH_SIZE = 16, 256, 8


class PlainBlock(nn.Module):
    """A block of GPT-2 from torch.nn's own parts."""

    def __init__(self, c: GPTConfig):
        super().__init__()
        self.n_heads = c.n_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(c.d_model), nn.LayerNorm(c.d_model)
        self.c_attn = nn.Linear(c.d_model, 3 * c.d_model)
        self.c_proj = nn.Linear(c.d_model, c.d_model)
        self.mlp = nn.Sequential(
            nn.Linear(c.d_model, c.d_ff), nn.GELU("tanh"), nn.Linear(c.d_ff, c.d_model)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(C, dim=2)
        q, k, v = (part.view(B, T, self.n_heads, -1).transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))
        return x + self.mlp(self.ln_2(x))


class PlainGPT2(nn.Module):
    """GPT-2 without dropout, the head tied to the token embedding."""

    def __init__(self, c: GPTConfig):
        super().__init__()
        self.wte = nn.Embedding(c.vocab_size, c.d_model)
        self.wpe = nn.Embedding(c.context_length, c.d_model)
        self.h = nn.Sequential(*(PlainBlock(c) for _ in range(c.n_layers)))
        self.ln_f = nn.LayerNorm(c.d_model)
        self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        return self.lm_head(self.ln_f(self.h(self.wte(ids) + self.wpe(positions))))


def training_step(model: nn.Module, windows: Tensor) -> Callable[[], None]:
    """A function that takes one step of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        logits = model(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def in_transformers(model: GPT) -> nn.Module:
    """The same weights in the model of `transformers`."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, train_bpe("a b", 257), folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


@torch.inference_mode()
def generate_uncached(model: GPT, ids: Tensor, n: int) -> Tensor:
    """Greedy generation that reads all the text again for every token."""
    for _ in range(n):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    return ids


def decoding_claims() -> list[Claim]:
    """256 tokens at batch 1: ours, theirs, ours without a cache; all write the same."""
    torch.manual_seed(0)
    model = GPT(LLAMA)
    nn.init.normal_(model.head.weight, std=0.02)  # it starts at zero, and would always say 0
    theirs, ids = in_transformers(model), torch.randint(LLAMA.vocab_size, (1, PROMPT))
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
    options |= {"eos_token_id": None, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    rivals = [
        lambda: generate(model, ids, NEW_TOKENS, temperature=0),
        lambda: theirs.generate(ids, **options),
        lambda: generate_uncached(model, ids, NEW_TOKENS),
    ]
    written = [write() for write in rivals]
    assert torch.equal(written[0], written[1]) and torch.equal(written[0], written[2])
    seconds = interleave(rivals, 7)
    cached, hugging_face, uncached = (1000 * s / NEW_TOKENS for s in seconds)
    return [
        Claim("ms a token, transformers' generate", cached, hugging_face, target=1 / 1.5),
        Claim("ms a token, ours without a cache", cached, uncached, target=1 / 4),
    ]


def training_claim() -> Claim:
    """A step of AdamW on 8 x 128 tokens."""
    torch.manual_seed(0)
    windows = torch.randint(GPT2.vocab_size, (BATCH_SIZE, GPT2.context_length + 1))
    ours, plain = GPT(GPT2), PlainGPT2(GPT2)
    assert ours.n_parameters == sum(weights.numel() for weights in plain.parameters())
    steps = [training_step(model, windows) for model in (ours, plain)]
    for step in steps:
        step()
    ms = [1000 * s for s in interleave(steps, 25)]
    return Claim("ms a training step, plain GPT-2", *ms, target=1.05)


def main() -> int:
    """Settle all claims; returns the exit code."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return report([*decoding_claims(), training_claim()])


if __name__ == "__main__":
    sys.exit(main())
