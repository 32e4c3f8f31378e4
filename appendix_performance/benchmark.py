"""What the appendix claims, settled in one run: `python -m appendix_performance.benchmark`.

Ten minutes on two cores, two of them to train the pair of models the first time. Parts can be asked
for by name: `python -m appendix_performance.benchmark speculation eight_bits`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from appendix_performance.checkpointing import checkpointed
from appendix_performance.measure import saved_activation_bytes, weight_bytes
from appendix_performance.pair import Pair, held_out_loss, story_pair
from appendix_performance.quantize import KernelLinear, quantized
from appendix_performance.speculative import Tally, speculative_generate
from ch01_overview.benchmarking import Claim, interleave, report
from ch04_model.huggingface import save_pretrained
from ch04_model.model import GPT, GPTConfig, generate
from ch05_pretraining.config import fast_dtype
from ch05_pretraining.loop import train
from ch05_pretraining.small import small_config, small_data, small_model

N_DRAFT, NEW_TOKENS, STORIES = 8, 240, (0, 1, 2)
WIDE = GPTConfig.llama(vocab_size=1024, context_length=384, n_layers=8, n_heads=8, d_model=512)
TRAINED = GPTConfig.qwen3(
    vocab_size=1024, context_length=256, n_layers=8, n_heads=4, d_model=256, tied=False
)
KILLED_STEPS = 900


def speculation() -> Iterator[Claim]:
    """Continuations of three stories, against cached decoding and against `transformers`."""
    pair = story_pair()
    theirs, assistant = in_transformers(pair)
    prompts = [pair.prompt(i) for i in STORIES]

    def ours(temperature: float, tally: Tally | None = None) -> list[Tensor]:
        seeded = torch.Generator().manual_seed(0)
        options = {"temperature": temperature, "generator": seeded, "tally": tally}
        run = partial(speculative_generate, pair.target, pair.draft)
        return [run(ids, NEW_TOKENS, N_DRAFT, **options) for ids in prompts]

    def plain(temperature: float) -> list[Tensor]:
        seeded = torch.Generator().manual_seed(0)
        options = {"temperature": temperature, "generator": seeded}
        return [generate(pair.target, ids, NEW_TOKENS, **options) for ids in prompts]

    def assisted(sample: bool) -> list[Tensor]:
        torch.manual_seed(0)
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": sample, "top_k": 0}
        options |= {"eos_token_id": None, "pad_token_id": 0, "assistant_model": assistant}
        return [theirs.generate(i, attention_mask=torch.ones_like(i), **options) for i in prompts]

    assert all(map(torch.equal, ours(0), plain(0)))
    for temperature, name in ((1.0, "sampled"), (0.0, "greedy")):
        ours(temperature, tally := Tally())
        rivals = partial(ours, temperature), partial(plain, temperature)
        rivals = [*rivals, partial(assisted, temperature > 0)]
        rivals[2]()
        seconds = interleave(rivals, 5)
        fast, slow, other = (1000 * s / NEW_TOKENS / len(STORIES) for s in seconds)
        print(f"{name}: {tally.acceptance:.0%} of the drafts looked at were accepted")
        yield Claim(f"ms a token, {name}, without a draft", fast, slow, target=1 / 2.5)
        yield Claim(f"ms a token, {name}, assisted generate", fast, other, target=1 / 1.5)


def in_transformers(pair: Pair) -> list[nn.Module]:
    """The same two models in `transformers`, which then drafts as many tokens as we do."""
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(pair.target, pair.tokenizer, folder)
        target = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    draft = as_neox(pair.draft)
    draft.generation_config.num_assistant_tokens = N_DRAFT
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    draft.generation_config.assistant_confidence_threshold = 0.0
    return [target, draft]


def as_neox(model: GPT) -> nn.Module:
    """The draft as the GPT-NeoX of `transformers`: rotary positions, LayerNorm, GELU, no bias."""
    theirs = transformers.GPTNeoXForCausalLM(_neox_config(model.config))
    weights = {name: torch.zeros_like(w) for name, w in theirs.state_dict().items()}  # the biases
    theirs.load_state_dict(weights | _neox_weights(model))
    theirs.get_output_embeddings().load_state_dict(model.head.state_dict())
    ids = torch.arange(20)[None]
    # Kernels that add in another order: 1e-5 of logits of about 10, after one layer.
    torch.testing.assert_close(theirs(ids).logits, model(ids), rtol=1e-4, atol=1e-4)
    return theirs.eval()


def _neox_config(c: GPTConfig) -> transformers.GPTNeoXConfig:
    rope = {"rope_type": "default", "rope_theta": c.rope_theta, "partial_rotary_factor": 1.0}
    return transformers.GPTNeoXConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        intermediate_size=c.d_ff,
        hidden_act="gelu_pytorch_tanh",
        max_position_embeddings=c.context_length,
        layer_norm_eps=c.norm_eps,
        rope_parameters=rope,
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
    )


def _neox_weights(model: GPT) -> dict[str, Tensor]:
    """Our weights under the names of GPT-NeoX."""
    weights = {"embed_in": model.token_embedding, "final_layer_norm": model.norm}
    for i, block in enumerate(model.blocks):
        names = {
            "input_layernorm": block.attention_norm,
            "post_attention_layernorm": block.feed_forward_norm,
            "attention.query_key_value": block.attention.qkv,
            "attention.dense": block.attention.out,
            "mlp.dense_h_to_4h": block.feed_forward.up,
            "mlp.dense_4h_to_h": block.feed_forward.down,
        }
        weights |= {f"layers.{i}.{name}": module for name, module in names.items()}
    parts = ((f"gpt_neox.{name}", module) for name, module in weights.items())
    found = {f"{name}.{kind}": w for name, m in parts for kind, w in m.named_parameters()}
    for name in [name for name in found if "query_key_value" in name]:
        # There the rows stand head by head, here all queries before all keys.
        by_kind = found[name].unflatten(0, (3, model.config.n_heads, model.config.head_dim))
        found[name] = by_kind.transpose(0, 1).flatten(0, 2)
    return found


def half_precision() -> Iterator[Claim]:
    """bfloat16 autocast: the speed of a training step, and the loss that training ends with."""
    losses = {}
    data = small_data()
    for precision, seed in (("float32", 0), ("float32", 1), ("float32", 2), ("bfloat16", 0)):
        model = small_model(data.tokenizer.vocab_size, seed)
        history = train(model, data.train, small_config(40, seed=seed, precision=precision))
        losses[precision, seed] = sum(row["loss"] for row in history[-10:]) / 10
    full = [losses["float32", seed] for seed in range(3)]
    noise, apart = max(full) - min(full), abs(losses["bfloat16", 0] - full[0])
    yield Claim("loss: bfloat16 from float32, seed from seed", apart, max(noise, 1e-3), target=1)
    if fast_dtype("cpu") is torch.float32:
        print("bfloat16 products are not fast on this CPU: the claim about its speed is not judged")
        return
    model, ids = GPT(TRAINED), torch.randint(1024, (8, 257))
    steps = [partial(training_step, model, ids, enabled) for enabled in (True, False)]
    for step in steps:
        step()
    yield Claim("s a training step, float32", *interleave(steps, 7), target=1 / 2)


def training_step(model: GPT, ids: Tensor, half: bool = False) -> Tensor:
    """Forward and backward."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = window_loss(model, ids)
    model.zero_grad()
    loss.backward()
    return loss


def window_loss(model: GPT, ids: Tensor) -> Tensor:
    """Nats per token of windows of ids."""
    return F.cross_entropy(model(ids[:, :-1]).float().flatten(0, 1), ids[:, 1:].flatten())


def checkpointing() -> Iterator[Claim]:
    """Bytes kept for the backward pass, and the time of both passes."""
    model, ids = GPT(TRAINED), torch.randint(1024, (8, 257))

    def light() -> None:
        with checkpointed(model):
            training_step(model, ids)

    kept = saved_activation_bytes(lambda: window_loss(model, ids), model)
    with checkpointed(model):
        few = saved_activation_bytes(lambda: window_loss(model, ids), model)
    yield Claim("MB kept for the backward pass", few / 1e6, kept / 1e6, target=1 / 4)
    training_step(model, ids)
    seconds = interleave([light, partial(training_step, model, ids)], 9)
    yield Claim("s forward and backward, checkpointed", *seconds, target=1.4)


def eight_bits() -> Iterator[Claim]:
    """Size and loss of the story target, and the speed of a model whose weights are large."""
    pair = story_pair()
    small = quantized(pair.target, KernelLinear)
    sizes = weight_bytes(small) / 1e6, weight_bytes(pair.target) / 1e6
    yield Claim("MB of weights as saved, int8", *sizes, target=1 / 3.5)
    losses = held_out_loss(small, pair), held_out_loss(pair.target, pair)
    yield Claim("nats a token, int8", *losses, target=1.01)
    wide = GPT(WIDE).eval()
    nn.init.normal_(wide.head.weight, std=0.02)
    ids = torch.randint(1024, (1, 16))
    rivals = [partial(generate, m, ids, 64) for m in (quantized(wide, KernelLinear), wide)]
    for rival in rivals:
        rival()
    ms = [1000 * s / 64 for s in interleave(rivals, 7)]
    yield Claim("ms a token, int8, 8 layers of 512", *ms, target=1.0)


def processes() -> Iterator[Claim]:
    """Two processes against one, four kinds, by hand and by torch; and a run that is killed."""
    command = [*TORCHRUN, "-m", "appendix_performance.distributed"]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True)
    print(done.stdout.rstrip())
    differ = 8.0 - equal_ways(done.stdout)
    yield Claim("ways for two that differ from one, of 8", differ, 8.0, target=0.0)
    resumed, of = killed_and_resumed()
    yield Claim("steps to redo after a kill, of all", of - resumed, of, target=0.99)


def equal_ways(printed: str) -> int:
    """How many lines of `appendix_performance.distributed` say that nothing differed."""
    return sum(line.endswith("; weights equal") for line in printed.splitlines())


def killed_and_resumed() -> tuple[float, float]:
    """The step that a killed run of `pretrain` goes on from, and the steps in all.

    Raises: RuntimeError if the second start did not go on there, or did not end well.
    """
    command = [*TORCHRUN, "-m", "ch05_pretraining.pretrain", "--preset", "minute"]
    command += ["--steps", str(KILLED_STEPS)]
    with tempfile.TemporaryDirectory() as cache:
        options = {"cwd": ROOT, "env": ONE_THREAD | {"LLM_CACHE_DIR": cache}, "text": True}
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        first = subprocess.Popen(command, **options | SILENT)
        while first.poll() is None and not steps_on_disk(cache):
            time.sleep(1)
        first.terminate()  # torchrun passes it on, and no process has a chance to save anything
        first.wait()
        reached = steps_on_disk(cache)
        second = subprocess.run(command, **options)
        if second.returncode or f"{reached}/{KILLED_STEPS}" not in second.stderr:
            raise RuntimeError(f"no resumption at step {reached}: {second.stderr[-2000:]}")
        if steps_on_disk(cache) != KILLED_STEPS:
            raise RuntimeError(f"it ended after {steps_on_disk(cache)} steps")
        return float(reached), float(KILLED_STEPS)


def steps_on_disk(cache: str | Path) -> int:
    """The step in the checkpoint of the only run in this cache, 0 without one."""
    for path in Path(cache).glob("runs/[!.]*"):
        try:
            with safe_open(path, "pt") as file:
                return json.loads(file.metadata()["run"])["step"]
        except (SafetensorError, OSError):
            return 0
    return 0


ROOT = Path(__file__).parents[1]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
PARTS = {f.__name__: f for f in (speculation, half_precision, checkpointing, eight_bits, processes)}


def main(arguments: list[str] | None = None) -> int:
    """Settle the claims of the parts asked for, or of all; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m appendix_performance.benchmark")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parts = parser.parse_args(arguments).parts or list(PARTS)
    if unknown := sorted(set(parts) - set(PARTS)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return max([report(list(PARTS[part]())) for part in parts])


if __name__ == "__main__":
    sys.exit(main())
