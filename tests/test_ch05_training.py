"""Facts about chapter 5: windows, losses, optimizers, the loop, and runs that are cut short."""

import itertools
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from ch04_model.model import GPT, GPTConfig
from ch05_pretraining import loop, tokens
from ch05_pretraining.checkpoint import load_checkpoint, save_checkpoint
from ch05_pretraining.config import TrainConfig, fast_dtype, learning_rate
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.loop import bits_per_byte, cross_entropy, perplexity, train
from ch05_pretraining.optimizers import (
    AdamW,
    Muon,
    clip_grad_norm,
    make_optimizer,
    orthogonalize,
)
from ch05_pretraining.tokens import document_starts, get_batch, open_tokens, write_tokens

V, T = 37, 13
CONFIG = TrainConfig(steps=7, batch_size=6, context_length=T, eval_every=3, precision="float32")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny matrices are fastest on one thread, and a subprocess can be told to use one too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_gpt(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {"vocab_size": V, "context_length": T, "n_layers": 2, "n_heads": 3, "d_model": 12}
    return GPT(GPTConfig(**shape | changes))


def stream(n=211, seed=1):
    return torch.randint(V, (n,), generator=torch.Generator().manual_seed(seed))


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def losses(history):
    """All that a history says, but for the time it took."""
    return [row[key] for row in history for key in ("loss", "val_loss") if row[key] is not None]


def assert_identical(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- windows


def test_targets_are_the_tokens_that_follow_the_inputs():
    inputs, targets = get_batch(torch.arange(101), 5, 7, generator())
    assert inputs.shape == targets.shape == (5, 7)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(7))


def test_every_position_that_leaves_room_for_a_window_is_drawn():
    inputs, targets = get_batch(torch.arange(11), 500, 7, generator())
    assert set(inputs[:, 0].tolist()) == {0, 1, 2, 3}
    assert targets.max() == 10


def test_text_of_one_window_is_enough_and_one_token_less_is_not():
    inputs, _ = get_batch(torch.arange(8), 3, 7, generator())
    assert torch.equal(inputs, torch.arange(7).expand(3, 7))
    with pytest.raises(ValueError, match=r"7 tokens .* window of 7"):
        get_batch(torch.arange(7), 3, 7, generator())


def test_windows_with_starts_begin_at_the_starts_that_leave_room():
    inputs, _ = get_batch(torch.arange(50), 300, 7, generator(), torch.tensor([2, 11, 42, 43]))
    assert set(inputs[:, 0].tolist()) == {2, 11, 42}
    with pytest.raises(ValueError, match="starts 7 tokens"):
        get_batch(torch.arange(50), 3, 7, generator(), torch.tensor([43]))


def test_starts_are_the_end_of_text_tokens_that_a_text_follows(monkeypatch):
    ids = torch.tensor([9, 1, 2, 9, 3, 9, 4, 4, 4, 9])
    assert document_starts(ids, 9).tolist() == [0, 3, 5]
    assert document_starts(ids[:-1], 9).tolist() == [0, 3, 5]
    monkeypatch.setattr(tokens, "CHUNK", 3)
    assert document_starts(ids, 9).tolist() == [0, 3, 5]
    assert document_starts(ids.numpy().astype(np.uint16), 9).tolist() == [0, 3, 5]


@pytest.mark.parametrize("ids", [[], [9], [1, 9, 2]])
def test_starts_of_a_stream_that_begins_with_no_text_are_refused(ids):
    with pytest.raises(ValueError, match="begins with 9"):
        document_starts(torch.tensor(ids, dtype=torch.int64), 9)


# ---------------------------------------------------------------- token files


@pytest.mark.parametrize(("vocab_size", "width"), [(1 << 16, 2), (70_001, 4)])
def test_a_token_file_gives_the_ids_back_and_the_same_batches(tmp_path, vocab_size, width):
    ids = torch.randint(vocab_size, (1009,), generator=generator())
    ids[0] = vocab_size - 1
    assert write_tokens(tmp_path / "a.tokens", iter(ids.tolist()), vocab_size) == 1009
    from_file = open_tokens(tmp_path / "a.tokens")
    assert isinstance(from_file, np.memmap)
    assert from_file.itemsize == width
    assert np.array_equal(from_file, ids.numpy())
    for a, b in zip(
        get_batch(ids, 5, 7, generator()), get_batch(from_file, 5, 7, generator()), strict=True
    ):
        assert torch.equal(a, b)


def test_a_token_file_of_several_chunks_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "CHUNK", 10)
    write_tokens(tmp_path / "a.tokens", range(37), V)
    assert open_tokens(tmp_path / "a.tokens").tolist() == list(range(37))


def test_a_flipped_or_missing_byte_of_a_token_file_is_noticed(tmp_path):
    path = tmp_path / "a.tokens"
    write_tokens(path, range(11), V)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :])
        with pytest.raises(ValueError, match=r"a\.tokens"):
            open_tokens(path)
        path.write_bytes(whole[:i])
        with pytest.raises(ValueError, match=r"a\.tokens"):
            open_tokens(path)
    path.write_bytes(whole + whole[-1:])
    with pytest.raises(ValueError, match="47 bytes, expected 46"):
        open_tokens(path)


def test_a_token_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.tokens"
    write_tokens(path, [1, 2, 3], V)

    def broken():
        yield 1
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_tokens(path, broken(), V)
    with pytest.raises(ValueError, match="from 5 to 37, the vocabulary from 0 to 36"):
        write_tokens(path, [5, V], V)
    with pytest.raises(ValueError, match="0 token ids"):
        write_tokens(path, [], V)
    assert open_tokens(path).tolist() == [1, 2, 3]
    assert [file.name for file in tmp_path.iterdir()] == ["a.tokens"]


# ---------------------------------------------------------------- losses


def test_cross_entropy_and_its_gradient_are_torchs():
    logits = torch.randn(5, 7, V, generator=generator(), requires_grad=True)
    targets = torch.randint(V, (5, 7), generator=generator())
    targets[2, 3:] = -100
    ours = cross_entropy(logits, targets)
    theirs = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, logits), torch.autograd.grad(theirs, logits))


def test_cross_entropy_of_huge_logits_does_not_overflow():
    logits = torch.tensor([[1e30, -1e30, 0.0], [-200.0, -200.0, -200.0]])
    assert_close(cross_entropy(logits[:1], torch.tensor([0])), torch.tensor(0.0))
    # The tolerance is float32's precision at 200.
    ours = cross_entropy(logits[1:], torch.tensor([2]))
    assert_close(ours, torch.tensor(math.log(3)), atol=2e-5, rtol=0)


def test_ignored_targets_neither_count_nor_get_a_gradient():
    logits = torch.randn(5, V, generator=generator(), requires_grad=True)
    targets = torch.tensor([3, -100, 5, -100, 7])
    cross_entropy(logits, targets).backward()
    assert logits.grad[[1, 3]].abs().max() == 0
    with torch.no_grad():
        logits[1] = math.inf
    kept = [0, 2, 4]
    assert_close(cross_entropy(logits, targets), cross_entropy(logits[kept], targets[kept]))


def test_perplexity_of_a_uniform_guess_is_the_vocabulary_size():
    loss = cross_entropy(torch.zeros(5, V), torch.arange(5))
    assert perplexity(loss.item()) == pytest.approx(V)


def test_bits_per_byte_by_hand():
    assert bits_per_byte(10 * math.log(2), 5) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="0 bytes"):
        bits_per_byte(1.0, 0)


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"accumulation": 4}, "batch_size 6 .* accumulation 4"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"muon_lr": -0.1}, "muon_lr is -0.1"),
        ({"adamw_lr": math.nan}, "adamw_lr is nan"),
        ({"warmup": 0.7, "decay": 0.5}, "warmup 0.7 and decay 0.5"),
        ({"warmup": 1.1, "schedule": "cosine"}, "warmup 1.1"),
        ({"clip_norm": 0.0}, "clip_norm is 0"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"precision": "float16"}, "precision is 'float16'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_wsd_by_hand():
    config = TrainConfig(steps=10, warmup=0.3, decay=0.4)
    rates = [learning_rate(step, config, peak=12.0) for step in range(10)]
    assert rates == pytest.approx([4, 8, 12, 12, 12, 12, 12, 9, 6, 3])


def test_cosine_after_its_warmup_is_torchs():
    config = TrainConfig(steps=17, warmup=4 / 17, schedule="cosine")
    ours = [learning_rate(step, config, peak=0.3) for step in range(17)]
    assert ours[:4] == pytest.approx([0.075, 0.15, 0.225, 0.3])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=13)
    for rate in ours[4:]:
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@settings(deadline=None, max_examples=40)  # a busy machine is no error
@given(
    steps=st.integers(1, 50),
    warmup=st.floats(0, 0.5),
    decay=st.floats(0, 0.5),
    schedule=st.sampled_from(["wsd", "cosine"]),
)
def test_the_rate_rises_to_at_most_the_peak_then_falls_and_is_never_zero(
    steps, warmup, decay, schedule
):
    config = TrainConfig(steps=steps, warmup=warmup, decay=decay, schedule=schedule)
    rates = [learning_rate(step, config) for step in range(steps)]
    top = rates.index(max(rates))
    assert 0 < min(rates) <= max(rates) <= 1
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_the_fast_number_type_is_not_the_slow_one():
    def seconds(dtype):
        x = torch.ones(256, 256, dtype=dtype)
        times = [time.perf_counter()]
        for _ in range(5):
            _ = x @ x
            times.append(time.perf_counter())
        return min(b - a for a, b in itertools.pairwise(times))

    other = {torch.float32: torch.bfloat16, torch.bfloat16: torch.float32}
    chosen = fast_dtype("cpu")
    assert seconds(chosen) < 3 * seconds(other[chosen])  # 3: the machine may be busy
    assert TrainConfig(steps=1).dtype(torch.device("cpu")) == chosen
    assert TrainConfig(steps=1, precision="bfloat16").dtype(torch.device("cpu")) == torch.bfloat16


# ---------------------------------------------------------------- optimizers


def parameters(*shapes, seed=0):
    g = generator(seed)
    return [nn.Parameter(torch.randn(shape, generator=g)) for shape in shapes]


def give_gradients(params, seed, scale=1.0):
    g = generator(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g) * scale


def run_both(ours, theirs, params, their_params, steps):
    for step in range(steps):
        ours.lr = theirs.param_groups[0]["lr"] = 0.03 / (step + 1)
        for some in (params, their_params):
            give_gradients(some, seed=step, scale=10.0 ** (step % 5 - 2))
        ours.step()
        theirs.step()


@pytest.mark.parametrize(
    ("scale", "max_norm"), [(0.001, 1.5), (0.001, 0.002), (1.0, 1.5), (1e3, 1.5)]
)
def test_clipping_is_torchs(scale, max_norm):
    ours, theirs = parameters((5, 7), (3,)), parameters((5, 7), (3,))
    unused = nn.Parameter(torch.ones(2))
    for params in (ours, theirs):
        give_gradients(params, seed=2, scale=scale)
    before = clip_grad_norm([*ours, unused], max_norm)
    assert_close(before, nn.utils.clip_grad_norm_(theirs, max_norm))
    for a, b in zip(ours, theirs, strict=True):  # small numbers: no absolute tolerance
        assert_close(a.grad, b.grad, rtol=1.3e-6, atol=0)
    after = torch.stack([p.grad.norm() for p in ours]).norm()
    assert_close(after, before.clamp(max=max_norm), rtol=1e-3, atol=0)  # the 1e-6 beside 0.006


def test_the_norm_of_an_overflown_gradient_says_so():
    (p,) = parameters((3,))
    p.grad = torch.tensor([1.0, math.inf, 2.0])
    assert clip_grad_norm([p], 1.0).isinf()


def test_adamw_is_torchs_bit_for_bit():
    shapes = [(5, 7), (11,), ()]
    ours, theirs = parameters(*shapes), parameters(*shapes)
    settings = {"betas": (0.8, 0.97), "eps": 1e-7, "weight_decay": 0.3}
    run_both(AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings), ours, theirs, 30)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


MATRICES = [(5, 11), (11, 5), (7, 7), (5, 11), (1, 3), (11, 5)]


def test_muon_is_torchs(monkeypatch):
    ours, theirs = parameters(*MATRICES), parameters(*MATRICES)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # let torch's use float32 too
    run_both(Muon(ours), torch.optim.Muon(theirs), ours, theirs, 20)
    assert_close(ours, theirs)
    assert (ours[0] - parameters(*MATRICES)[0]).abs().max() > 0.01


def test_muon_in_bfloat16_is_torchs():
    ours, theirs = parameters(*MATRICES), parameters(*MATRICES)
    run_both(Muon(ours, dtype=torch.bfloat16), torch.optim.Muon(theirs), ours, theirs, 20)
    # The rates add up to 0.16 for tall matrices. bfloat16 rounds to 8 bits in each of five rounds,
    # whose products are summed in another order here: some percent of the way travelled.
    assert_close(ours, theirs, atol=0.03 * 0.16, rtol=0)


def test_muon_moves_matrices_only():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Muon(parameters((2, 2), (3,)))


def test_parameters_without_gradient_stay_where_they_are():
    for optimizer_class in (AdamW, Muon):
        params = parameters((2, 3), (2, 3))
        before = params[1].detach().clone()
        params[0].grad = torch.ones(2, 3)
        optimizer_class(params).step()
        assert torch.equal(params[1], before)


@pytest.mark.parametrize("shape", [(7, 19), (19, 7), (11, 11)])
def test_orthogonalize_keeps_singular_vectors_and_brings_values_near_one(shape):
    matrix = torch.randn(shape, generator=generator(), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    S = torch.logspace(0, -2.3, len(S), dtype=torch.float64)  # down to 0.005
    turned = orthogonalize((U * S) @ Vh, dtype=torch.float64)
    values = U.T @ turned @ Vh.T
    assert_close(values, values.diagonal().diag())
    assert values.diagonal().min() > 0.68
    assert values.diagonal().max() < 1.21


def test_a_tall_matrix_is_orthogonalized_as_its_transpose_and_zeros_stay_zeros():
    matrix = torch.randn(5, 7, generator=generator())
    assert_close(orthogonalize(matrix.T), orthogonalize(matrix).T)
    assert orthogonalize(torch.zeros(3, 5)).abs().max() == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_matrices_of_blocks_go_to_muon_and_all_else_to_adamw(tied, bias):
    model = tiny_gpt(tied=tied, bias=bias)
    muon, adamw = make_optimizer(model, CONFIG)
    names = {p: name for name, p in model.named_parameters()}
    in_muon = {names[p] for p in muon.state}
    in_adamw = {names[p] for p in adamw.state}
    assert in_muon | in_adamw == set(names.values())
    assert not in_muon & in_adamw
    assert in_muon == {
        n
        for n in names.values()
        if n.startswith("blocks") and "norm" not in n and not n.endswith("bias")
    }
    assert muon.weight_decay == 0.1
    assert adamw.weight_decay == 0


def test_frozen_parameters_are_given_to_no_optimizer():
    model = tiny_gpt()
    model.blocks.requires_grad_(False)
    muon, adamw = make_optimizer(model, CONFIG)
    assert not muon.state
    assert set(adamw.state) == {p for p in model.parameters() if p.requires_grad}
    frozen = weights(model.blocks)
    train(model, stream(), CONFIG)
    assert_identical(weights(model.blocks), frozen)


# ---------------------------------------------------------------- evaluation


class Toy(nn.Module):
    """A model whose prediction depends on the last token, or on all since the last end of text."""

    def __init__(self, vocab_size, context_length, end_of_text=None):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocab_size, context_length=context_length)
        self.table = nn.Parameter(torch.randn(97, vocab_size, generator=generator()))
        self.end_of_text = end_of_text

    def forward(self, ids):
        if self.end_of_text is None:
            return self.table[ids]
        index = torch.arange(ids.shape[1])
        begin = torch.where(ids == self.end_of_text, index, 0).cummax(dim=1).values
        total = ids.cumsum(dim=1)
        since = total - total.gather(1, begin) + ids.gather(1, begin)
        return self.table[since % 97]


def stories(lengths, seed=3, end_of_text=0):
    g = generator(seed)
    texts = [torch.randint(1, V, (n,), generator=g) for n in lengths]
    end = torch.tensor([end_of_text])
    return torch.cat([end, *[part for text in texts for part in (text, end)]])


@pytest.mark.parametrize("n", [2, T, T + 1, T + 2, 5 * T + 1, 5 * T + 4])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_evaluation_counts_every_token_once(n, batch_size):
    model, ids = Toy(V, T), stream(n)
    plain = F.cross_entropy(model.table[ids[:-1]], ids[1:]).item()
    assert evaluate(model, ids, batch_size=batch_size) == pytest.approx(plain)
    assert evaluate(model, ids.numpy().astype(np.uint16)) == pytest.approx(plain)


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, 3 * T), min_size=1, max_size=9), batch=st.integers(1, 4))
def test_evaluation_by_texts_counts_every_token_once(lengths, batch):
    model, ids = Toy(V, T), stories(lengths)
    plain = F.cross_entropy(model.table[ids[:-1]], ids[1:]).item()
    starts = document_starts(ids, 0)
    assert evaluate(model, ids, batch_size=batch, starts=starts) == pytest.approx(plain)


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(1, T - 1), min_size=1, max_size=20))
def test_evaluation_by_texts_predicts_every_token_from_the_whole_of_its_text(lengths):
    model, ids = Toy(V, T, end_of_text=0), stories(lengths)
    alone = 0.0
    starts = document_starts(ids, 0)
    for begin, end in zip(starts, [*starts[1:], len(ids) - 1], strict=True):
        text = ids[begin : end + 1]
        alone += F.cross_entropy(model(text[None, :-1])[0], text[1:], reduction="sum").item()
    assert evaluate(model, ids, starts=starts) == pytest.approx(alone / (len(ids) - 1))


def test_evaluation_by_texts_fills_its_windows():
    seen = []
    model, ids = Toy(V, 50), stories([9] * 100)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    evaluate(model, ids, starts=document_starts(ids, 0), batch_size=7)
    assert seen == [(7, 50)] * 2 + [(6, 50)]


def test_evaluation_of_a_gpt_is_the_loss_of_its_windows_and_leaves_its_mode():
    model, ids = tiny_gpt(), stream(2 * T + 1)
    windows = ids[:-1].view(2, T)
    plain = F.cross_entropy(model(windows).flatten(0, 1), ids[1:]).item()
    modes = []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    assert evaluate(model, ids) == pytest.approx(plain)
    assert modes == [False]
    assert model.training
    assert evaluate(model.eval(), ids) == pytest.approx(plain)
    assert not model.training


@pytest.mark.parametrize(
    ("ids", "context_length", "message"),
    [
        (torch.tensor([3]), None, "1 tokens"),
        (torch.tensor([], dtype=torch.int64), None, "0 tokens"),
        (torch.tensor([3, V]), None, "to 37, the vocabulary from 0 to 36"),
        (torch.tensor([3, -1]), None, "from -1"),
        (torch.arange(30), T + 1, "windows of 14 .* 1 to 13"),
    ],
)
def test_a_stream_that_does_not_fit_the_model_is_refused(ids, context_length, message):
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_gpt(), ids, context_length)
    with pytest.raises(ValueError, match=message):
        train(tiny_gpt(), ids, replace(CONFIG, context_length=context_length or T))
    with pytest.raises(ValueError, match=message):
        config = replace(CONFIG, context_length=context_length or T)
        train(tiny_gpt(), stream(), config, val_ids=ids)


# ---------------------------------------------------------------- the loop


def test_the_loss_falls_from_a_guess_towards_the_entropy():
    # Each token is one of two that may follow the last one: ln 2 nats that nobody can know.
    g, ids = generator(), [0]
    for bit in torch.randint(2, (4000,), generator=g).tolist():
        ids.append((3 * ids[-1] + 1 + bit) % V)
    ids = torch.tensor(ids)
    model = tiny_gpt(d_model=24)
    config = TrainConfig(
        steps=40, batch_size=16, context_length=T, adamw_lr=0.02, precision="float32"
    )
    history = train(model, ids[:3500], config, val_ids=ids[3500:], floor=math.log(2))
    assert history[0]["loss"] == pytest.approx(math.log(V), abs=0.1)
    assert 1.0 < history[20]["loss"] < 2.0
    assert math.log(2) < history[-1]["val_loss"] < 1.0


def test_history_has_a_row_for_each_step():
    history = train(tiny_gpt(), stream(), CONFIG, val_ids=stream(50, seed=2))
    assert [row["step"] for row in history] == [1, 2, 3, 4, 5, 6, 7]
    assert [row["tokens"] for row in history] == [6 * T * n for n in range(1, 8)]
    assert [row["step"] for row in history if row["val_loss"] is not None] == [3, 6, 7]
    seconds = [row["seconds"] for row in history]
    assert seconds[0] > 0
    assert seconds == sorted(seconds)


def test_the_validation_loss_is_that_of_evaluate_with_the_starts_of_its_texts():
    model, val_ids = tiny_gpt(), stories([5, 8, 3, 11] * 5)
    starts = document_starts(val_ids, 0)
    history = train(model, stream(), CONFIG, val_ids=val_ids, val_starts=starts)
    assert history[-1]["val_loss"] == evaluate(model, val_ids, starts=starts)
    assert history[-1]["val_loss"] != evaluate(model, val_ids)


def test_one_step_by_hand():
    config = replace(CONFIG, steps=1)
    model, reference = tiny_gpt(), tiny_gpt()
    inputs, targets = loop._Run(model, config, None).share(
        partial(loop.draw_windows, stream(), config, None)
    )
    F.cross_entropy(reference(inputs).flatten(0, 1), targets.flatten()).backward()
    nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
    for optimizer in make_optimizer(reference, config):
        optimizer.step()
    train(model, stream(), config)
    assert_close(weights(model), weights(reference))


def test_micro_batches_change_nothing():
    whole, parts = tiny_gpt(), tiny_gpt()
    in_one = train(whole, stream(), CONFIG)
    in_three = train(parts, stream(), replace(CONFIG, accumulation=3))
    assert losses(in_one) == pytest.approx(losses(in_three), rel=1e-5)
    assert_close(weights(whole), weights(parts))


def test_the_bar_tells_loss_floor_speed_and_time_left(capsys):
    history = train(tiny_gpt(), stream(), CONFIG, floor=0.5)
    last = capsys.readouterr().err.splitlines()[-1].split("\r")[-1]
    loss = history[-1]["loss"]
    assert f"loss {loss:.3f} (floor {loss - 0.5:+.3f})" in last
    assert "tokens/s" in last
    assert re.search(r"7/7 \[\d\d:\d\d<00:00", last)


def test_windows_differ_by_step_and_by_seed():
    ids = torch.arange(V).repeat(300)
    firsts = set()
    for seed in (0, 1, 2**32):
        run = loop._Run(tiny_gpt(), replace(CONFIG, seed=seed), None)
        for run.step in range(3):
            inputs, _ = run.share(partial(loop.draw_windows, ids, CONFIG, None))
            firsts.add(tuple(inputs[:, 0].tolist()))
    assert len(firsts) == 9


def test_the_same_seed_trains_the_same_model_from_memory_or_file(tmp_path):
    write_tokens(tmp_path / "a.tokens", stream().tolist(), V)
    from_memory, from_file = tiny_gpt(), tiny_gpt()
    train(from_memory, stream(), CONFIG)
    train(from_file, open_tokens(tmp_path / "a.tokens"), CONFIG)
    assert_identical(weights(from_memory), weights(from_file))


def test_training_with_starts_sees_only_windows_that_begin_a_text(monkeypatch):
    seen = []
    model, ids = tiny_gpt(), stories([5, 8, 3] * 10)
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    train(model, ids, CONFIG, starts=document_starts(ids, 0))
    assert all((inputs[:, 0] == 0).all() for inputs in seen)


def test_bfloat16_training_learns_as_float32_does():
    config = replace(CONFIG, steps=15, precision="bfloat16")
    model, dtypes = tiny_gpt(), set()
    model.register_forward_hook(lambda _, inputs, logits: dtypes.add(logits.dtype))
    coarse = losses(train(model, stream(60), config))
    assert dtypes == {torch.bfloat16}
    fine = losses(train(tiny_gpt(), stream(60), replace(config, precision="float32")))
    assert coarse != fine
    assert coarse == pytest.approx(fine, abs=0.1)


def test_an_overflown_gradient_stops_the_run_and_leaves_the_checkpoint(tmp_path, monkeypatch):
    path, model = tmp_path / "run", tiny_gpt()
    calls = itertools.count(1)

    def overflow(logits, targets, count):
        return cross_entropy(logits, targets) * (math.inf if next(calls) == 5 else 1.0)

    monkeypatch.setattr(loop, "cross_entropy", overflow)
    with pytest.raises(FloatingPointError, match="step 5 has norm"):
        train(model, stream(), CONFIG, checkpoint=path, checkpoint_seconds=0.0)
    fresh = tiny_gpt(seed=9)
    assert load_checkpoint(path, fresh)[0] == 4
    assert_identical(weights(fresh), weights(model))


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def uninterrupted():
    torch.set_num_threads(1)
    model = tiny_gpt()
    history = train(model, stream(), CONFIG, val_ids=stream(50, seed=2))
    return weights(model), losses(history)


def resume(path):
    model = tiny_gpt(seed=9)  # other weights: all must come from the checkpoint
    history = train(model, stream(), CONFIG, val_ids=stream(50, seed=2), checkpoint=path)
    return weights(model), losses(history)


def interrupt(monkeypatch, path, name, call, error=KeyboardInterrupt, owner=loop, seconds=1e9):
    """Train until the given call of a function raises."""
    original, calls = getattr(owner, name), itertools.count(1)

    def raising(*args, **kwargs):
        if next(calls) == call:
            raise error
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(owner, name, raising)
        train(
            tiny_gpt(),
            stream(),
            CONFIG,
            val_ids=stream(50, seed=2),
            checkpoint=path,
            checkpoint_seconds=seconds,
        )
    return load_checkpoint(path, tiny_gpt())[0]


@pytest.mark.parametrize("call", [1, 2, 5, 7])
def test_a_crashed_run_continues_to_the_same_weights(tmp_path, monkeypatch, uninterrupted, call):
    path = tmp_path / "run"
    saved = interrupt(monkeypatch, path, "get_batch", call, error=RuntimeError, seconds=0.0)
    assert saved == call - 1
    resumed, history = resume(path)
    assert_identical(resumed, uninterrupted[0])
    assert history == uninterrupted[1]


@pytest.mark.parametrize(
    ("name", "call", "saved"),
    [
        ("get_batch", 4, 3),
        ("cross_entropy", 6, 5),
        ("evaluate", 1, 3),
        ("evaluate", 3, 7),
        # Half-way through an update: what lies on the disk is the run's beginning.
        ("learning_rate", 6, 0),
        ("clip_grad_norm", 5, 0),
    ],
)
def test_ctrl_c_loses_nothing(tmp_path, monkeypatch, uninterrupted, name, call, saved):
    path = tmp_path / "run"
    assert interrupt(monkeypatch, path, name, call) == saved
    resumed, history = resume(path)
    assert_identical(resumed, uninterrupted[0])
    assert history == uninterrupted[1]


def test_a_finished_run_is_not_trained_again(tmp_path, uninterrupted, monkeypatch):
    path = tmp_path / "run"
    resume_from_nothing = tiny_gpt()
    train(resume_from_nothing, stream(), CONFIG, val_ids=stream(50, seed=2), checkpoint=path)
    monkeypatch.setattr(loop, "get_batch", None)
    again, history = resume(path)
    assert_identical(again, uninterrupted[0])
    assert history == uninterrupted[1]


SCRIPT = """
import sys
from dataclasses import replace
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_ch05_training import LONG, stream, tiny_gpt
from ch05_pretraining.loop import train
train(tiny_gpt(seed=9), stream(), LONG, checkpoint=sys.argv[2], checkpoint_seconds=0.0)
"""
LONG = replace(CONFIG, steps=60)


def test_a_run_killed_at_random_moments_continues_to_the_same_weights(tmp_path):
    path, model = tmp_path / "run", tiny_gpt(seed=9)
    train(model, stream(), LONG)
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(path)]
    for last in (False, True):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        if not last:
            while not path.exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.5))
            process.kill()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == (0 if last else -signal.SIGKILL), errors.decode()
    resumed = tiny_gpt()
    assert load_checkpoint(path, resumed, config=LONG)[0] == LONG.steps
    assert_identical(weights(resumed), weights(model))


@pytest.fixture
def saved(tmp_path):
    """The file of a run of seven steps."""
    path = tmp_path / "run.safetensors"
    train(tiny_gpt(), stream(), CONFIG, checkpoint=path)
    return path


def test_a_checkpoint_gives_back_weights_optimizers_and_history(saved):
    model = tiny_gpt(seed=9)
    optimizers = make_optimizer(model, CONFIG)
    step, history = load_checkpoint(saved, model, optimizers, CONFIG)
    assert step == len(history) == 7
    original = tiny_gpt()
    train(original, stream(), CONFIG)
    assert_identical(weights(model), weights(original))
    muon, adamw = optimizers
    matrix, gain = model.blocks[0].attention.out.weight, model.norm.weight
    assert muon.state[matrix]["mean"].abs().sum() > 0
    assert adamw.state[gain]["step"] == 7
    assert adamw.state[gain].keys() == {"step", "mean", "mean_square"}


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        ({"n_layers": 3}, {}, r"n_layers=2 \(now 3\)"),
        ({"d_model": 24}, {}, "d_model=12"),
        ({}, {"muon_lr": 0.5}, r"muon_lr=0.02 \(now 0.5\)"),
        ({}, {"steps": 8}, "steps=7"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(saved, model, config, message):
    other = tiny_gpt(**model)
    before = weights(other)
    with pytest.raises(ValueError, match=message):
        train(other, stream(), replace(CONFIG, **config), checkpoint=saved)
    assert_identical(weights(other), before)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace a file that is being read")
def test_a_checkpoint_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one(tmp_path):
    path, wide = tmp_path / "run", {"d_model": 120}
    for seed in (0, 1):
        save_checkpoint(tmp_path / str(seed), tiny_gpt(seed=seed, **wide), [], CONFIG, seed, [])
    link_to(tmp_path / "0", path)
    read = threading.Event()

    def replace_again_and_again():
        for i in itertools.count():
            link_to(tmp_path / str(i % 2), path)
            if read.is_set():
                break

    replacing = threading.Thread(target=replace_again_and_again)
    replacing.start()
    try:
        model = tiny_gpt(seed=2, **wide)
        for _ in range(100):
            step, _ = load_checkpoint(path, model)
            assert_identical(weights(model), weights(tiny_gpt(seed=step, **wide)))
    finally:
        read.set()
        replacing.join()


def link_to(source, path):
    """Take the name in one step, as `write_whole` does."""
    beside = path.with_name("beside")
    os.link(source, beside)
    beside.replace(path)
    beside.unlink(missing_ok=True)  # two names of one file: then the first step did nothing


def test_a_flipped_or_missing_byte_of_a_checkpoint_is_noticed(saved):
    whole = saved.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = random.Random(0)
    places = [*range(0, header, 97), *rng.choices(range(header, len(whole)), k=20), len(whole) - 1]
    for i in places:
        for damaged in (whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :], whole[:i]):
            saved.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"run\.safetensors"):
                load_checkpoint(saved, tiny_gpt())


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(weights(tiny_gpt()), path)
    with pytest.raises(ValueError, match="is not a"):
        load_checkpoint(path, tiny_gpt())
    path.write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_checkpoint(path, tiny_gpt())


def test_tensors_that_are_not_the_models_are_refused(tmp_path):
    path, model = tmp_path / "run", tiny_gpt(tied=False)
    save_checkpoint(path, model, [], CONFIG, 0, [])
    for change in (
        lambda m: m.register_parameter("extra", nn.Parameter(torch.ones(3))),
        lambda m: setattr(m, "norm", nn.Identity()),
        lambda m: setattr(m.head, "weight", nn.Parameter(torch.ones(V, 1))),
    ):
        other = tiny_gpt(tied=False)
        change(other)
        before = weights(other)
        with pytest.raises(ValueError, match="where the model has"):
            load_checkpoint(path, other)
        assert_identical(weights(other), before)


def test_a_checkpoint_path_that_cannot_be_written_costs_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "get_batch", None)
    with pytest.raises(FileNotFoundError):
        train(tiny_gpt(), stream(), CONFIG, checkpoint=tmp_path / "no folder" / "run")


# ---------------------------------------------------------------- several processes


PARALLEL = """
import sys
import torch
import torch.distributed as dist
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_ch05_training import CONFIG, stream, tiny_gpt
from ch05_pretraining import loop
from ch05_pretraining.checkpoint import save_checkpoint

dist.init_process_group("gloo")
rank = dist.get_rank()
model = tiny_gpt(seed=rank)  # rank 0's weights must win
history = loop.train(model, stream(), CONFIG, val_ids=stream(50, seed=2))
save_checkpoint(f"{sys.argv[2]}/whole{rank}", model, [], CONFIG, 7, history)

original = loop.get_batch
calls = 0
def crash(*args):
    global calls
    calls += 1
    if calls == 5:
        raise RuntimeError
    return original(*args)

loop.get_batch = crash
try:
    loop.train(tiny_gpt(seed=rank), stream(), CONFIG, val_ids=stream(50, seed=2),
                   checkpoint=f"{sys.argv[2]}/run", checkpoint_seconds=0.0)
except RuntimeError:
    dist.barrier()
else:
    raise SystemExit("the run was to crash in its fifth step")
model = tiny_gpt(seed=5 + rank)
history = loop.train(model, stream(), CONFIG, val_ids=stream(50, seed=2),
                         checkpoint=f"{sys.argv[2]}/run")
save_checkpoint(f"{sys.argv[2]}/resumed{rank}", model, [], CONFIG, 7, history)
dist.destroy_process_group()
"""


def test_two_processes_train_as_one_and_resume_bit_for_bit(tmp_path, uninterrupted):
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    folder = str(Path(__file__).parent)
    done = subprocess.run(
        [*launch, str(script), folder, str(tmp_path)], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    runs = {}
    for name in ("whole0", "whole1", "resumed0", "resumed1"):
        model = tiny_gpt()
        _, history = load_checkpoint(tmp_path / name, model)
        runs[name] = weights(model)
        assert losses(history) == pytest.approx(uninterrupted[1], rel=1e-5)
    for name in ("whole1", "resumed0", "resumed1"):
        assert_identical(runs[name], runs["whole0"])
    assert_close(runs["whole0"], uninterrupted[0])


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused(monkeypatch):
    monkeypatch.setattr(loop, "processes", lambda: (0, 4))
    with pytest.raises(ValueError, match=r"batch_size 6 .* accumulation 1 times 4 processes"):
        train(tiny_gpt(), stream(), CONFIG)


def test_accumulation_equals_the_big_batch_where_the_parts_differ_in_targets():
    def draw(generator):
        inputs = torch.randint(V, (6, T), generator=generator)
        targets = torch.randint(V, (6, T), generator=generator)
        targets[0, 1:] = -100
        targets[1] = -100  # nothing to predict in a whole row
        return inputs, targets

    whole, parts = tiny_gpt(), tiny_gpt()
    at_once = train(whole, draw, CONFIG)
    in_parts = train(parts, draw, replace(CONFIG, accumulation=6))
    # Sums in another order round differently, and the optimizers magnify it.
    assert_close(losses(in_parts), losses(at_once), rtol=1e-5, atol=0.0)
    for p, q in zip(parts.parameters(), whole.parameters(), strict=True):
        assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_other_trained_parameters_is_refused_and_nothing_is_changed(tmp_path):
    train(tiny_gpt(), stream(), CONFIG, checkpoint=tmp_path / "run")
    frozen = tiny_gpt(seed=3)
    frozen.token_embedding.weight.requires_grad_(False)
    before = weights(frozen)
    with pytest.raises(ValueError, match="optimizer state of"):
        load_checkpoint(tmp_path / "run", frozen, make_optimizer(frozen, CONFIG), CONFIG)
    assert_identical(weights(frozen), before)


@pytest.mark.parametrize("starts", [[], [5, 9], [0, 9, 9], [0, 9, 4]])
def test_starts_that_do_not_ascend_from_zero_are_refused_in_evaluation(starts):
    with pytest.raises(ValueError, match="ascend from 0"):
        evaluate(tiny_gpt(), stream(), T, starts=torch.tensor(starts, dtype=torch.int64))


def test_windows_of_no_tokens_are_refused_in_evaluation():
    with pytest.raises(ValueError, match="windows of 0 tokens"):
        evaluate(tiny_gpt(), stream(), 0)
