"""Appendix: measuring, checkpointing and eight-bit weights."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from appendix_performance.checkpointing import checkpointed
from appendix_performance.formats import FORMATS, WHOLE, bits, decode
from appendix_performance.measure import (
    Timing,
    attainable_flops,
    benchmark,
    counted_flops,
    flops_per_token,
    mfu,
    saved_activation_bytes,
    weight_bytes,
)
from appendix_performance.quantize import (
    Int8Embedding,
    Int8Linear,
    KernelLinear,
    dequantize,
    quantize_int8,
    quantized,
)
from appendix_performance.saving import BackgroundSaver
from ch04_model.model import GPT, GPTConfig, generate

B, T = 3, 29
QWEN = GPTConfig.qwen3(
    vocab_size=101, context_length=31, n_layers=3, n_heads=6, n_kv_heads=2, d_model=42, head_dim=10
)
GPT2 = GPTConfig.gpt2(vocab_size=101, context_length=31, n_layers=2, n_heads=7, d_model=77)
BOTH = pytest.mark.parametrize("config", [QWEN, GPT2], ids=["qwen3", "gpt2"])


def new(config):
    torch.manual_seed(0)
    return GPT(config)


def windows(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (B, T + 1), generator=generator)


def loss(model):
    ids = windows(model.config)
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


# ---------------------------------------------------------------------------------- measuring


def test_a_single_interruption_moves_neither_the_median_nor_the_best():
    timing = Timing((1.0, 1.0, 9.0, 1.1, 1.0))
    assert timing.median == timing.best == 1.0


def test_warm_up_calls_are_made_but_not_timed():
    calls = []
    assert len(benchmark(lambda: calls.append(1), repeats=5, warmup=2).seconds) == 5
    assert len(calls) == 7


@pytest.mark.parametrize(("repeats", "warmup"), [(0, 1), (3, -1)])
def test_no_runs_at_all_are_refused(repeats, warmup):
    with pytest.raises(ValueError, match=f"{repeats}.*{warmup}"):
        benchmark(lambda: None, repeats=repeats, warmup=warmup)


@BOTH
def test_predicted_operations_of_a_forward_pass_are_those_counted(config):
    model = new(config)
    counted = counted_flops(lambda: model(windows(config)[:, :-1]))
    assert counted == B * T * flops_per_token(config, T, training=False)


@BOTH
def test_the_plain_kernel_whose_products_torch_sees_costs_what_is_predicted(config):
    model = new(config)
    with sdpa_kernel(SDPBackend.MATH):
        counted = counted_flops(lambda: loss(model).backward())
    assert counted == B * T * flops_per_token(config, T)


@BOTH
def test_training_counts_more_only_by_the_scores_computed_twice(config):
    model = new(config)
    counted = counted_flops(lambda: loss(model).backward())
    again = config.n_layers * 2 * config.n_heads * config.head_dim * T
    assert counted == B * T * (flops_per_token(config, T) + again)


def test_the_roofline_bends_where_bandwidth_and_peak_meet():
    assert attainable_flops(0.5, peak=100.0, bandwidth=10.0) == 5.0
    assert attainable_flops(10.0, peak=100.0, bandwidth=10.0) == 100.0
    assert attainable_flops(1000.0, peak=100.0, bandwidth=10.0) == 100.0


def test_a_machine_that_does_nothing_else_is_fully_utilised():
    peak = 1e12
    tokens = peak / flops_per_token(QWEN, T)
    assert mfu(tokens, QWEN, peak, T) == pytest.approx(1.0)


def test_weights_count_once_even_if_two_layers_share_them():
    assert weight_bytes(new(QWEN)) == 4 * new(QWEN).n_parameters


def test_saved_bytes_of_one_product_by_hand():
    x, w = torch.randn(5, 7, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    assert saved_activation_bytes(lambda: x @ w) == 4 * (5 * 7 + 7 * 3)
    layer = torch.nn.Linear(7, 3)
    assert saved_activation_bytes(lambda: layer(torch.randn(5, 7)), layer) == 4 * 5 * 7


def test_what_is_saved_twice_counts_once():
    x = torch.randn(11, requires_grad=True)
    assert saved_activation_bytes(lambda: (x * x) * x) == 2 * 4 * 11  # x, and x * x


# ---------------------------------------------------------------------------------- checkpointing


@BOTH
def test_recomputing_leaves_loss_and_gradients_exactly_as_they_are(config):
    model = new(config)
    plain = loss(model)
    plain.backward()
    expected = [weights.grad.clone() for weights in model.parameters()]
    model.zero_grad()
    with checkpointed(model):
        light = loss(model)
        light.backward()
    assert torch.equal(light, plain)
    assert all(torch.equal(w.grad, e) for w, e in zip(model.parameters(), expected, strict=True))


def test_a_checkpointed_block_keeps_its_input_alone():
    model = new(QWEN)
    with checkpointed(model):
        light = saved_activation_bytes(lambda: loss(model), model)
    torch_model = new(QWEN)
    for block in torch_model.blocks:
        forward = block.forward
        block.forward = lambda *x, f=forward: torch_checkpoint(f, *x, use_reentrant=False)
    assert light == saved_activation_bytes(lambda: loss(torch_model), torch_model)
    shallow = new(QWEN)
    del shallow.blocks[1:]
    with checkpointed(shallow):
        fewer = saved_activation_bytes(lambda: loss(shallow), shallow)
    assert light - fewer == 2 * 4 * B * T * QWEN.d_model  # two blocks' inputs in float32


def test_the_model_is_as_before_when_checkpointing_ends():
    model = new(QWEN)
    before = saved_activation_bytes(lambda: loss(model), model)
    with pytest.raises(KeyError), checkpointed(model):
        raise KeyError
    assert saved_activation_bytes(lambda: loss(model), model) == before
    assert not any("forward" in vars(block) for block in model.blocks)


def test_frozen_weights_and_autocast_survive_recomputation():
    model = new(QWEN)
    model.blocks[1].requires_grad_(False)
    grads = []
    for light in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if light:
                with checkpointed(model):
                    value = loss(model)
            else:
                value = loss(model)
        value.backward()
        grads.append([None if w.grad is None else w.grad.clone() for w in model.parameters()])
    for one, other in zip(*grads, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


# ---------------------------------------------------------------------------------- eight bits


def test_quantisation_by_hand():
    q, scale = quantize_int8(torch.tensor([[1.27, -0.1, 0.004], [0.0, 0.0, 0.0], [0.0, -3.0, 1.5]]))
    assert q.tolist() == [[127, -10, 0], [0, 0, 0], [0, -127, 64]]
    torch.testing.assert_close(scale, torch.tensor([0.01, 1.0, 3 / 127]))


def test_no_weight_is_off_by_more_than_half_a_step():
    weights = torch.randn(13, 101)
    q, scale = quantize_int8(weights)
    assert q.abs().max() == 127
    assert ((dequantize(q, scale) - weights).abs() <= scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("bias", [False, True])
def test_eight_bit_layers_compute_what_their_weights_say(bias):
    layer, x = torch.nn.Linear(37, 11, bias=bias), torch.randn(2, 5, 37)
    by_hand = Int8Linear(layer.weight, layer.bias)
    torch.testing.assert_close(by_hand(x), F.linear(x, by_hand.weight, layer.bias))
    kernel = KernelLinear(layer.weight, layer.bias)
    assert (kernel(x) - by_hand(x)).norm() < 0.03 * by_hand(x).norm()  # x in seven bits
    table = Int8Embedding(layer.weight)
    ids = torch.tensor([[3, 7, 10]])
    torch.testing.assert_close(table(ids), table.weight[ids])


@pytest.mark.parametrize("linear", [Int8Linear, KernelLinear])
def test_a_quantised_model_is_nearly_four_times_smaller_and_still_writes(linear):
    model = new(GPTConfig.llama(vocab_size=101, context_length=97, n_heads=2, d_model=128)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)
    small, ids = quantized(model, linear), torch.randint(101, (1, 5))
    assert weight_bytes(model) > 3.8 * weight_bytes(small)
    with torch.no_grad():
        assert (small(ids) - model(ids)).norm() < 0.1 * model(ids).norm()
    assert generate(small, ids, 80, temperature=0).shape == (1, 85)  # past LONG: rearranged, too
    assert model.blocks[0].attention.qkv.weight.dtype == torch.float32  # the original is untouched


# ---------------------------------------------------------------------------------- formats, files


@pytest.mark.parametrize("name", FORMATS)
def test_every_pattern_of_bits_is_the_number_that_torch_reads(name):
    f = FORMATS[name]
    step = 1 if f.n_bits == 8 else 97 if f.n_bits == 16 else 6_700_417  # a prime: all kinds
    for i in range(0, 2**f.n_bits, step):
        pattern = format(i, f"0{f.n_bits}b")
        found = torch.tensor(decode(pattern, f))
        theirs = torch.tensor(i, dtype=torch.int64).to(WHOLE[f.n_bits]).view(f.dtype).float()
        assert torch.equal(found, theirs) or (found.isnan() and theirs.isnan()), pattern
        if not theirs.isnan():
            assert bits(theirs, f) == pattern


def test_a_pattern_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"3 signs.*8 bits"):
        decode("010", FORMATS["float8 e4m3"])


def test_the_file_holds_the_weights_of_the_moment_they_were_saved(tmp_path):
    weights = torch.zeros(1000, 1000)
    with BackgroundSaver() as saver:
        saver.save(tmp_path / "w.safetensors", {"w": weights})
        weights += 1  # training goes on
    assert load_file(tmp_path / "w.safetensors")["w"].eq(0).all()
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_an_error_on_the_thread_reaches_who_waits(tmp_path):
    saver = BackgroundSaver()
    saver.save(tmp_path / "missing" / "w.safetensors", {"w": torch.ones(3)})
    with pytest.raises(FileNotFoundError):
        saver.wait()
    saver.wait()  # told once
