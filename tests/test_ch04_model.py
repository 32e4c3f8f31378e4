import math
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from ch03_attention.attention import causal_mask, scaled_dot_product_attention
from ch04_model.generation import _by_columns
from ch04_model.model import (
    GPT,
    FeedForward,
    GPTConfig,
    LayerNorm,
    RMSNorm,
    TransformerBlock,
    generate,
    next_token_probabilities,
    stream,
)

V, CONTEXT = 37, 13
SIZES = {"vocab_size": V, "context_length": CONTEXT, "n_layers": 3, "d_ff": 17}
CONFIGS = {
    "gpt2": GPTConfig.gpt2(**SIZES, n_heads=5, d_model=35),
    "llama": GPTConfig.llama(**SIZES, n_heads=6, n_kv_heads=2, d_model=12),
    "qwen3": GPTConfig.qwen3(**SIZES, n_heads=6, n_kv_heads=2, d_model=11, head_dim=14),
}


every_recipe = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make(config=CONFIGS["qwen3"], seed=0):
    """A model whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights += torch.randn_like(weights) / 3
    return model


def make_ids(B, T, seed=0):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


# The config


@pytest.mark.parametrize(
    ("size", "n_parameters"),
    [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080), ("1.5B", 1_557_611_200)],
)
def test_gpt2_sizes_have_the_published_numbers_of_parameters(size, n_parameters):
    with torch.device("meta"):  # no memory is needed to count
        assert GPT(GPTConfig.gpt2(size)).n_parameters == n_parameters


def test_an_unknown_size_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'125M'.*124M, 355M, 774M, 1\.5B"):
        GPTConfig.gpt2("125M")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"d_model": 35, "n_heads": 4}, "d_model 35 is not divisible by n_heads 4"),
        ({"n_heads": 4, "n_kv_heads": 3}, "n_heads 4 is not divisible by n_kv_heads 3"),
        ({"head_dim": 7}, "head_dim 7 must be even"),
        ({"n_layers": 0}, "n_layers must be positive, not 0"),
        ({"n_heads": 0}, "n_heads must be positive, not 0"),
        ({"n_kv_heads": 0}, "n_kv_heads must be positive, not 0"),
        ({"vocab_size": -1}, "vocab_size must be positive, not -1"),
        ({"rope_theta": 0.0}, "rope_theta must be positive, not 0.0"),
        ({"norm": "batch"}, "norm must be one of .* not 'batch'"),
        ({"activation": "relu"}, "activation must be one of .* not 'relu'"),
        ({"positions": "none"}, "positions must be one of .* not 'none'"),
    ],
)
def test_a_bad_config_is_refused_with_both_numbers(fields, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**fields)


def test_sizes_left_out_take_their_usual_values():
    assert asdict(GPTConfig(n_heads=4, d_model=128)).items() >= {
        ("n_kv_heads", 4),
        ("head_dim", 32),
        ("d_ff", 344),  # 4 * 128 * 2/3 is 341.3
    }
    assert GPTConfig(activation="gelu").d_ff == 4 * 128
    assert GPTConfig(d_model=35, n_heads=4, head_dim=6).head_dim == 6


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        GPTConfig().d_model = 2


# The layers


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_norms_are_torchs(scale):
    x = torch.randn(2, 3, 5, 7) * scale + 0.3
    weight, bias = torch.randn(7), torch.randn(7)
    rms, layer = RMSNorm(7, eps=1e-5), LayerNorm(7, eps=1e-5)
    with torch.no_grad():
        for norm in (rms, layer):
            norm.weight.copy_(weight)
        layer.bias.copy_(bias)
    assert_close(rms(x), F.rms_norm(x, (7,), weight, 1e-5))
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
    # At offset 0.3 and scale 1e-4 the deviations have lost three of their seven digits.
    loose = {"rtol": 1e-3, "atol": 1e-3} if scale < 1 else {}
    assert_close(layer(x), (x - mean) / (variance + 1e-5).sqrt() * weight + bias, **loose)


def test_rms_norm_has_the_gradient_of_torchs():
    x = torch.randn(3, 7, dtype=torch.float64)
    ours, theirs = (x.float().requires_grad_() for _ in range(2))
    (RMSNorm(7)(ours) ** 3).sum().backward()
    (F.rms_norm(theirs, (7,), eps=1e-6) ** 3).sum().backward()
    assert_close(ours.grad, theirs.grad)


def test_rms_norm_of_zeros_is_zeros_with_a_finite_gradient():
    x = torch.zeros(2, 7, requires_grad=True)
    y = RMSNorm(7)(x)
    y.sum().backward()
    assert (y == 0).all() and x.grad.isfinite().all()


def test_rms_norm_survives_squares_that_float16_cannot_hold():
    x = torch.tensor([[300.0, -300.0]], dtype=torch.float16)
    assert_close(RMSNorm(2)(x), torch.tensor([[1.0, -1.0]], dtype=torch.float16))


def test_rms_norm_of_zeros_in_half_precision_is_zeros():
    norm = RMSNorm(7, eps=1e-8).half()  # float16 has nothing between 0 and 6e-8
    assert (norm(torch.zeros(2, 7, dtype=torch.float16)) == 0).all()


def test_feed_forward_by_its_formulas():
    x = torch.randn(2, 3, 128)
    swiglu, gelu = FeedForward(GPTConfig()), FeedForward(GPTConfig(activation="gelu", bias=True))
    gate, up, down = swiglu.gate.weight, swiglu.up.weight, swiglu.down.weight
    wide = x @ gate.T
    assert_close(swiglu(x), (wide * torch.sigmoid(wide) * (x @ up.T)) @ down.T)
    wide = x @ gelu.up.weight.T + gelu.up.bias
    bent = 0.5 * wide * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    assert_close(gelu(x), bent @ gelu.down.weight.T + gelu.down.bias)


def test_a_block_is_its_parts_in_order():
    torch.manual_seed(0)
    block, x = TransformerBlock(GPTConfig(bias=True)), torch.randn(2, 5, 128)
    q, k, v = block.attention.project(block.attention_norm(x))
    mixed = scaled_dot_product_attention(q, k, v, causal_mask(5)).transpose(1, 2).flatten(2)
    middle = x + block.attention.out(mixed)
    assert_close(block(x), middle + block.feed_forward(block.feed_forward_norm(middle)))


# The model


@every_recipe
def test_the_number_of_parameters_by_pencil(config):
    C, F_, D, q, kv = (
        config.d_model,
        config.d_ff,
        config.head_dim,
        config.n_heads * config.head_dim,
        config.n_kv_heads * config.head_dim,
    )
    if config.norm == "layer":  # GPT-2: biases, two vectors in a norm, two matrices in a layer
        block = (C + 1) * 3 * C + (C + 1) * C + (C + 1) * F_ + (F_ + 1) * C + 4 * C
        expected = (V + CONTEXT) * C + 3 * block + 2 * C
    else:
        block = C * (q + 2 * kv) + q * C + 3 * C * F_ + 2 * C + (2 * D if config.qk_norm else 0)
        expected = V * C * (1 if config.tied else 2) + 3 * block + C
    assert GPT(config).n_parameters == expected


def test_tied_means_one_matrix_in_two_places():
    tied, untied = GPT(GPTConfig()), GPT(GPTConfig(tied=False))
    assert tied.head.weight is tied.token_embedding.weight
    assert untied.n_parameters - tied.n_parameters == 1024 * 128


def test_weights_start_as_gpt2s_do():
    torch.manual_seed(0)
    model = GPT(GPTConfig.gpt2(n_layers=2, n_heads=4, d_model=256, vocab_size=1009))
    for name, weights in model.named_parameters():
        if name.endswith("bias"):
            assert (weights == 0).all()
        elif weights.ndim == 1:
            assert (weights == 1).all()
        else:
            last = "attention.out" in name or "feed_forward.down" in name
            expected = 0.02 / math.sqrt(2 * 2) if last else 0.02
            # The spread of 65,536 samples is within 1.1 % of the truth, four standard errors.
            assert weights.std().item() == pytest.approx(expected, rel=0.011), name


def test_an_untied_head_starts_at_zero_and_its_embedding_large():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=1009, tied=False))
    assert (model.head.weight == 0).all()
    # 129,152 samples: four standard errors are 0.8 %.
    assert model.token_embedding.weight.std().item() == pytest.approx(1, rel=0.008)


@every_recipe
def test_a_new_model_knows_nothing(config):
    torch.manual_seed(0)
    loss = F.cross_entropy(GPT(config)(make_ids(7, 11)).flatten(0, 1), make_ids(7, 11, 1).flatten())
    assert loss.item() == pytest.approx(math.log(V), abs=0.05)


@every_recipe
def test_future_tokens_do_not_change_past_logits(config):
    model, ids = make(config), make_ids(2, 11)
    changed = ids.clone()
    changed[:, 6] = (ids[:, 6] + 1) % V
    before, after = model(ids), model(changed)
    assert_close(before[:, :6], after[:, :6])
    assert ((before[:, 6:] - after[:, 6:]).abs().amax(-1) > 1e-4).all()


@every_recipe
def test_the_order_of_past_tokens_matters(config):
    model, ids = make(config), make_ids(1, 5)
    swapped = ids[:, [1, 0, 2, 3, 4]]
    assert (model(ids)[:, -1] - model(swapped)[:, -1]).abs().max() > 1e-4


@every_recipe
def test_rows_of_a_batch_do_not_mix(config):
    model, ids = make(config), make_ids(3, 7)
    alone = torch.cat([model(row[None]) for row in ids])
    assert_close(model(ids), alone)


@every_recipe
@pytest.mark.parametrize("first", range(1, CONTEXT))
def test_with_a_cache_every_split_gives_what_the_whole_gives(config, first):
    model, ids = make(config), make_ids(2, CONTEXT)
    whole = model(ids)
    cache = model.new_cache(2)
    in_two = torch.cat([model(part, cache) for part in ids.tensor_split([first], dim=1)], 1)
    cache = model.new_cache(2)
    in_many = torch.cat([model(part, cache) for part in ids.split(first, dim=1)], 1)
    assert_close(in_two, whole)
    assert_close(in_many, whole)


def test_train_and_eval_are_the_same():
    model, ids = make(), make_ids(2, 5)
    assert_close(model.train()(ids), model.eval()(ids), rtol=0, atol=0)


def test_hidden_states_are_what_the_head_reads():
    model, ids = make(), make_ids(2, 5)
    assert_close(model(ids), model.hidden_states(ids) @ model.head.weight.T)


@every_recipe
def test_every_weight_gets_a_gradient(config):
    model = make(config)
    F.cross_entropy(model(make_ids(2, 7)).flatten(0, 1), make_ids(2, 7, 1).flatten()).backward()
    for name, weights in model.named_parameters():
        if name != "position_embedding.weight":  # only the first 7 of its rows
            assert (weights.grad != 0).any(), name


@every_recipe
def test_bfloat16_autocast_is_near_float32(config):
    model, ids = make(config), make_ids(2, 7)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)
        cached = model(ids, model.new_cache(2))
    # bfloat16 has 8 bits, and errors add up over three layers.
    assert_close(logits.float(), model(ids), rtol=0.1, atol=0.3)
    assert_close(cached.float(), model(ids), rtol=0.1, atol=0.3)


@pytest.mark.parametrize("bad", [-1, V, 10**9])
def test_an_id_outside_the_vocabulary_is_named(bad):
    ids = make_ids(2, 5)
    ids[1, 3] = bad
    with pytest.raises(ValueError, match=f"id {bad} is outside the vocabulary of {V}"):
        make()(ids)


@every_recipe
def test_a_sequence_beyond_the_context_is_refused(config):
    model = make(config)
    with pytest.raises(ValueError, match=f"14 tokens .* context of {CONTEXT}"):
        model(make_ids(1, CONTEXT + 1))
    cache = model.new_cache(1)
    model(make_ids(1, 9), cache)
    with pytest.raises(ValueError, match=f"15 tokens .* context of {CONTEXT}"):
        model(make_ids(1, 6), cache)
    assert cache.length == 9


# From logits to a distribution


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"temperature": 0.5}, [16 / 30, 9 / 30, 4 / 30, 1 / 30]),  # p²
        ({"top_k": 2}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_k": 9}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.6}, [4 / 7, 3 / 7, 0, 0]),
        ({"top_p": 0.75}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_p": 1.0}, [0.4, 0.3, 0.2, 0.1]),
        ({"min_p": 0.4}, [4 / 9, 3 / 9, 2 / 9, 0]),
        ({"min_p": 1.0}, [1, 0, 0, 0]),
        # Of the three that top_k leaves, the first has 4/9 and two have 7/9: 0.5 needs both.
        ({"top_k": 3, "top_p": 0.5}, [4 / 7, 3 / 7, 0, 0]),
    ],
)
def test_filters_by_pencil(filters, expected):
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log() + 5
    assert_close(next_token_probabilities(logits, **filters), torch.tensor([expected]).float())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [None, 1, 7, 500])
@pytest.mark.parametrize("top_p", [None, 0.1, 0.9, 0.99])
@pytest.mark.parametrize("min_p", [None, 0.02, 0.5])
def test_filters_are_transformers(temperature, top_k, top_p, min_p):
    logits = 2 * torch.randn(11, 101, generator=torch.Generator().manual_seed(0))
    processors = LogitsProcessorList()
    if top_k is not None:
        processors.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        processors.append(TopPLogitsWarper(top_p))
    if min_p is not None:
        processors.append(MinPLogitsWarper(min_p))
    expected = processors(None, logits / temperature).softmax(-1)
    assert_close(next_token_probabilities(logits, temperature, top_k, top_p, min_p), expected)


def test_ties_with_the_last_of_top_k_stay():
    probs = next_token_probabilities(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), top_k=2)
    assert (probs > 0).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("temperature", [1e-30, 1e-45, 5e-324])
def test_the_smallest_temperatures_are_greedy_not_nan(temperature):
    probs = next_token_probabilities(torch.tensor([[1.0, 3.0, 2.0]]), temperature)
    assert_close(probs, torch.tensor([[0.0, 1.0, 0.0]]))


def test_logits_of_minus_infinity_have_no_probability():
    probs = next_token_probabilities(torch.tensor([[1.0, -math.inf, 1.0]]), top_p=0.999)
    assert_close(probs, torch.tensor([[0.5, 0.0, 0.5]]))


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_make_no_distribution_are_refused(bad, temperature):
    with pytest.raises(ValueError, match="largest logit of each row must be finite"):
        next_token_probabilities(torch.tensor([[1.0, 2.0], bad]), temperature)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0 .* not -0.1"),
        ({"temperature": math.nan}, "temperature must be at least 0 .* not nan"),
        ({"temperature": math.inf}, "temperature must be .* finite, not inf"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, not 1.1"),
        ({"min_p": -0.1}, "min_p must be from 0 to 1, not -0.1"),
        ({"min_p": 1.1}, "min_p must be from 0 to 1, not 1.1"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 0, not -1"),
    ],
)
def test_numbers_out_of_range_are_refused_before_any_work(filters, message):
    arguments = {"max_new_tokens": 1} | filters
    with pytest.raises(ValueError, match=message):
        stream(make(), make_ids(1, 3), **arguments)  # not iterated


# Generation


def slow_generate(model, ids, n):
    """The rule without a cache: read everything since the last restart, take the likeliest."""
    start = 0
    for _ in range(n):
        if ids.shape[1] - start > CONTEXT:
            start = ids.shape[1] - CONTEXT // 2
        likeliest = model(ids[:, start:])[:, -1].argmax(-1)
        ids = torch.cat((ids, likeliest[:, None]), 1)
    return ids


@every_recipe
@pytest.mark.parametrize("prompt_length", [1, 5, CONTEXT])
def test_greedy_generation_is_the_slow_rule_far_beyond_the_context(config, prompt_length):
    model, prompt = make(config), make_ids(3, prompt_length)
    expected = slow_generate(model, prompt, 31)
    assert len(set(expected[:, prompt_length:].flatten().tolist())) > 5  # no trivial repetition
    assert torch.equal(generate(model, prompt, 31, temperature=0), expected)


def test_a_context_of_one_token_goes_on_too():
    model = make(GPTConfig(vocab_size=V, context_length=1, n_layers=1, n_heads=1, d_model=6))
    new = generate(model, make_ids(2, 1), 5, temperature=0)
    assert torch.equal(
        new[:, 1:], torch.stack([model(new[:, [i]])[:, 0].argmax(-1) for i in range(5)], 1)
    )


def test_generate_is_the_prompt_and_what_stream_yields():
    model, prompt = make(), make_ids(3, 4)
    steps = list(stream(model, prompt, 7, generator=torch.Generator().manual_seed(1)))
    whole = generate(model, prompt, 7, generator=torch.Generator().manual_seed(1))
    assert [step.shape for step in steps] == [(3,)] * 7
    assert torch.equal(whole, torch.cat((prompt, torch.stack(steps, 1)), 1))


def test_the_same_seed_writes_the_same_and_another_seed_another():
    first, again, other = (
        generate(make(), make_ids(2, 3), 20, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_samples_follow_the_distribution():
    model, prompt = make(), make_ids(1, 4)
    n = 20_000
    filters = {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.01}
    expected = next_token_probabilities(model(prompt)[:, -1], **filters)[0]
    generator = torch.Generator().manual_seed(0)
    drawn = generate(model, prompt.expand(n, -1), 1, **filters, generator=generator)[:, -1]
    counts = torch.bincount(drawn, minlength=V)
    assert (counts[expected == 0] == 0).all()
    # Five standard errors of each count.
    assert ((counts / n - expected).abs() <= 5 * (expected * (1 - expected) / n).sqrt()).all()


def test_rows_repeat_their_stop_id_until_all_have_stopped():
    model, prompt = make(), make_ids(5, 4)
    free = generate(model, prompt, 9, temperature=0)[:, 4:]
    stops = {free[0, 1].item(), free[3, 5].item()}
    stopped = generate(model, prompt, 9, temperature=0, stop_ids=stops)[:, 4:]
    ends = []
    for free_row, row in zip(free.tolist(), stopped.tolist(), strict=True):
        end = next((i for i, token in enumerate(free_row) if token in stops), len(free_row))
        n = min(end + 1, len(row))
        assert row[:n] == free_row[:n]
        assert row[n:] == [free_row[end]] * (len(row) - n) if n < len(row) else True
        ends.append(end)
    assert len(set(ends)) > 1
    assert stopped.shape[1] == min(9, max(ends) + 1)


def test_generation_ends_when_every_row_has_stopped():
    model, prompt = make(), make_ids(1, 4)
    free = generate(model, prompt, 9, temperature=0)[0, 4:].tolist()
    stop = free[3]
    stopped = generate(model, prompt, 9, temperature=0, stop_ids=[stop])[0, 4:].tolist()
    assert stopped == free[: free.index(stop) + 1]


def test_nothing_new_is_the_prompt_itself():
    prompt = make_ids(2, 3)
    assert torch.equal(generate(make(), prompt, 0), prompt)


@pytest.mark.parametrize("length", [0, CONTEXT + 1])
def test_a_prompt_that_is_empty_or_beyond_the_context_is_refused(length):
    with pytest.raises(ValueError, match=f"prompt has {length} tokens.*from 1 to {CONTEXT}"):
        generate(make(), make_ids(1, length), 1)


def test_logits_of_nan_are_refused():
    model = make()
    nn.init.constant_(model.norm.weight, math.nan)
    with pytest.raises(ValueError, match=r"finite, not \[nan\]"):
        generate(model, make_ids(1, 3), 2)


def test_generating_leaves_the_model_and_its_caller_as_they_were():
    model = make().train()
    for tokens in stream(model, make_ids(2, 3), 4):
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        assert not tokens.is_inference()
    assert model.training and all(weights.requires_grad for weights in model.parameters())


def test_what_was_generated_can_be_trained_on():
    model = make()
    ids = generate(model, make_ids(2, 3), 4)
    model(ids).sum().backward()
    assert model.token_embedding.weight.grad is not None


def test_generation_computes_in_inference_mode():
    seen = []
    model = make()
    model.norm.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    generate(model, make_ids(1, 3), 3)
    assert seen == [True] * 3


# A short golden curve


def test_a_small_model_learns_to_count():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=V, context_length=CONTEXT, n_layers=2, n_heads=2, d_model=32))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for step in range(150):
        ids = (make_ids(32, 1, seed=step) + torch.arange(CONTEXT + 1)) % V
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(V), abs=0.1)
    assert losses[-1] < 0.1
    assert generate(model, torch.tensor([[35]]), 6, temperature=0).tolist() == [
        [35, 36, 0, 1, 2, 3, 4]
    ]


@every_recipe
def test_a_long_text_is_written_from_other_memory_and_is_the_same(config):
    model = make(replace(config, context_length=80))
    before = {name: (w.clone(), w.stride()) for name, w in model.named_parameters()}
    together = generate(model, make_ids(2, 3), 70, temperature=0)  # two rows: weights as they are
    alone = generate(model, make_ids(2, 3)[:1], 70, temperature=0)
    assert torch.equal(alone, together[:1])
    for name, weights in model.named_parameters():
        assert torch.equal(weights, before[name][0]) and weights.stride() == before[name][1]


def test_writing_follows_the_training_between_two_texts():
    model, ids = make(replace(CONFIGS["qwen3"], context_length=80)), make_ids(1, 3)
    first = generate(model, ids, 70, temperature=0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(weights.flip(0))
    assert not torch.equal(generate(model, ids, 70, temperature=0), first)


def test_the_copy_for_writing_keeps_tied_matrices_one():
    model = make(CONFIGS["gpt2"])
    copy = _by_columns(model)
    assert copy.head.weight is copy.token_embedding.weight
    assert copy.head.weight.stride() == (1, V) and model.head.weight.stride() == (35, 1)
    assert_close(copy(make_ids(2, 5)), model(make_ids(2, 5)))
