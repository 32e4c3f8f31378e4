import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ch03_attention.attention import (
    KVCache,
    MultiHeadAttention,
    apply_rope,
    attention_weights,
    causal_mask,
    rope_cache,
    scaled_dot_product_attention,
    sinusoidal_positions,
)

B, H, K, T, S, D, C = 2, 6, 3, 5, 7, 10, 11


def heads(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def qkv(n_kv_heads=H):
    return heads(B, H, T, D), heads(B, n_kv_heads, S, D, seed=1), heads(B, n_kv_heads, S, D, seed=2)


def attention(**options):
    torch.manual_seed(0)
    return MultiHeadAttention(C, H, K, head_dim=D, **options)


MASKS = {
    "none": None,
    "causal": causal_mask(T, S),
    "random, one for each row of the batch": heads(B, 1, T, S) > 0,
    "a query with nothing to attend to": causal_mask(T, S) & (torch.arange(T) != 2)[:, None],
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("n_kv_heads", [H, K, 1])
def test_attention_by_hand_is_torchs(mask, n_kv_heads):
    q, k, v = qkv(n_kv_heads)
    assert_close(
        scaled_dot_product_attention(q, k, v, mask),
        F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True),
    )


def test_attention_of_two_tokens_by_pencil():
    # Scores are q k / sqrt(1): ln 3 and 0, so the weights are 3/4 and 1/4.
    q, k = torch.tensor([[[[1.0]]]]), torch.tensor([[[[math.log(3)], [0.0]]]])
    v = torch.tensor([[[[4.0], [8.0]]]])
    assert_close(attention_weights(q, k), torch.tensor([[[[0.75, 0.25]]]]))
    assert_close(scaled_dot_product_attention(q, k, v), torch.tensor([[[[5.0]]]]))


def test_weights_are_distributions_and_zero_where_masked():
    q, k, _ = qkv()
    weights = attention_weights(q, k, causal_mask(T, S))
    assert_close(weights.sum(-1), torch.ones(B, H, T))
    assert (weights[..., ~causal_mask(T, S)] == 0).all()
    assert (weights[..., causal_mask(T, S)] > 0).all()


def test_a_query_with_nothing_to_attend_to_gets_zeros_and_a_finite_gradient():
    q, k, v = qkv()
    q.requires_grad_()
    mask = MASKS["a query with nothing to attend to"]
    out = scaled_dot_product_attention(q, k, v, mask)
    assert (out[:, :, 2] == 0).all()
    out.sum().backward()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("size", [1e4, 1e18])
def test_huge_scores_do_not_overflow(size):
    q, k, v = qkv()
    out = scaled_dot_product_attention(q * size, k * size, v)
    best = (q @ k.transpose(-2, -1)).argmax(-1)
    assert_close(out, v.gather(2, best[..., None].expand(out.shape)))


def test_causal_mask_by_pencil():
    assert causal_mask(3).tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert causal_mask(2, 3).tolist() == [[1, 1, 0], [1, 1, 1]]
    assert causal_mask(1, 4).all()


def test_causal_mask_needs_as_many_keys_as_queries():
    with pytest.raises(ValueError, match=r"5 queries .* 3 keys"):
        causal_mask(5, 3)


def test_sinusoidal_positions_by_the_papers_formula():
    table = sinusoidal_positions(T, D)
    for position in range(T):
        for i in range(D // 2):
            angle = position / 10_000 ** (2 * i / D)
            expected = torch.tensor([math.sin(angle), math.cos(angle)])
            assert_close(table[position, 2 * i : 2 * i + 2], expected)


@pytest.mark.parametrize("table", [sinusoidal_positions, lambda t, width: rope_cache(width, t)])
def test_an_odd_width_has_no_pairs_to_turn(table):
    with pytest.raises(ValueError, match="7 must be even"):
        table(T, 7)


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
def test_rope_is_transformers(theta):
    q, k, _ = qkv(K)
    cos, sin = rope_cache(D, S, theta)
    turned_q, _ = apply_rotary_pos_emb(q, q, cos[None, 2:], sin[None, 2:])
    turned_k, _ = apply_rotary_pos_emb(k, k, cos[None], sin[None])
    assert_close(apply_rope(q, cos[2:], sin[2:]), turned_q)
    assert_close(apply_rope(k, cos, sin), turned_k)


def test_rope_turns_each_pair_by_position_times_frequency():
    x = heads(1, 1, T, D)
    turned = apply_rope(x, *rope_cache(D, T, theta=100.0))
    pairs = torch.complex(x[..., : D // 2], x[..., D // 2 :])
    angles = torch.arange(T)[:, None] * 100.0 ** (-2 * torch.arange(D // 2) / D)
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    assert_close(turned, torch.cat((pairs.real, pairs.imag), -1))


def test_rope_products_depend_on_the_distance_alone():
    cos, sin = rope_cache(D, 100)
    q, k = heads(1, 1, 1, D), heads(1, 1, 1, D, seed=1)

    def product(i, j):
        return (apply_rope(q, cos[[i]], sin[[i]]) * apply_rope(k, cos[[j]], sin[[j]])).sum()

    assert_close(product(3, 1), product(97, 95), rtol=1e-4, atol=1e-5)  # angles near 100 are coarse
    assert not torch.isclose(product(3, 1), product(3, 2), rtol=1e-2)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_the_module_is_the_formula_on_each_head(bias, rotary):
    model, x = attention(bias=bias), heads(B, T, C)
    rope = rope_cache(D, T) if rotary else None
    q, k, v = model.project(x, rope)
    by_head = [
        scaled_dot_product_attention(
            q[:, [h]], k[:, [h // (H // K)]], v[:, [h // (H // K)]], causal_mask(T)
        )
        for h in range(H)
    ]
    joined = torch.cat([head[:, 0] for head in by_head], dim=-1)
    assert_close(model(x, rope), joined @ model.out.weight.T + (model.out.bias if bias else 0))


def test_the_module_is_torchs_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(35, 5, bias=True), torch.nn.MultiheadAttention(35, 5)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = heads(T, 35)
    expected, _ = theirs(x, x, x, attn_mask=~causal_mask(T), need_weights=False)
    assert_close(ours(x[None])[0], expected)


def test_queries_and_keys_but_not_values_go_through_qk_norm():
    class Doubled(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            assert width == D

        def forward(self, x):
            return 2 * x

    x = heads(B, T, C)
    q, k, v = attention().project(x)
    doubled = attention(qk_norm=Doubled).project(x)
    assert_close(doubled, (2 * q, 2 * k, v))


@pytest.mark.parametrize("rotary", [False, True])
def test_future_tokens_do_not_change_past_outputs(rotary):
    model, x = attention(), heads(B, T, C)
    rope = rope_cache(D, T) if rotary else None
    changed = x.clone()
    changed[:, 3] += 1
    before, after = model(x, rope), model(changed, rope)
    assert_close(before[:, :3], after[:, :3])
    assert ((before[:, 3:] - after[:, 3:]).abs().amax(-1) > 1e-4).all()


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_with_a_cache_any_chunks_give_what_the_whole_gives(lengths):
    model, n = attention(), sum(lengths)
    x, (cos, sin) = heads(B, n, C), rope_cache(D, n)
    cache, outputs = KVCache(1, B, K, n, D), []
    for chunk in x.split(lengths, dim=1):
        rows = slice(cache.length, cache.length + chunk.shape[1])
        outputs.append(model(chunk, (cos[rows], sin[rows]), cache))
    assert cache.length == n
    assert_close(torch.cat(outputs, 1), model(x, (cos, sin)))


def test_the_cache_returns_what_was_stored_layer_by_layer():
    cache = KVCache(2, B, K, S, D)
    first, second = heads(2, B, K, 4, D), heads(2, B, K, 3, D, seed=1)
    for stored in (first, second):
        before = cache.length
        cache.append(0, stored[0], -stored[0])
        assert cache.length == before  # not before the last layer has its own
        keys, values = cache.append(1, stored[1], -stored[1])
    assert cache.length == 7
    assert_close(keys, torch.cat((first[1], second[1]), 2))
    assert_close(values, -keys)
    assert_close(cache.keys[0], torch.cat((first[0], second[0]), 2))


def test_a_full_cache_refuses_more_and_stays_as_it_was():
    cache = KVCache(1, B, K, 5, D)
    cache.append(0, heads(B, K, 4, D), heads(B, K, 4, D))
    with pytest.raises(ValueError, match="4 of the cache's 5 positions are taken, so 2 more"):
        cache.append(0, heads(B, K, 2, D), heads(B, K, 2, D))
    assert cache.length == 4


def test_a_truncated_cache_goes_on_as_if_the_rest_had_never_been():
    model, x, other = attention(), heads(B, T, C), heads(B, 4, C, seed=1)
    cache = KVCache(1, B, K, T, D)
    model(x[:, :1], cache=cache)
    model(other, cache=cache)
    cache.truncate(1)
    assert_close(model(x[:, 1:], cache=cache), model(x)[:, 1:])


@pytest.mark.parametrize("length", [-1, 4])
def test_a_cache_cannot_be_truncated_to_what_it_does_not_have(length):
    cache = KVCache(1, B, K, 5, D)
    cache.append(0, heads(B, K, 3, D), heads(B, K, 3, D))
    with pytest.raises(ValueError, match=f"keep {length} of the 3"):
        cache.truncate(length)


def test_the_cache_has_the_dtype_and_device_it_is_shown():
    cache = KVCache(1, B, K, T, D, like=torch.empty(0, dtype=torch.bfloat16, device="meta"))
    assert cache.keys.dtype == torch.bfloat16 and cache.values.device.type == "meta"


def test_heads_that_do_not_divide_evenly_are_refused():
    with pytest.raises(ValueError, match="d_model 11 is not divisible by n_heads 6"):
        MultiHeadAttention(11, 6)
    with pytest.raises(ValueError, match="n_heads 6 is not divisible by n_kv_heads 4"):
        MultiHeadAttention(12, 6, 4)


@pytest.mark.parametrize("batch_size", [1, B + 1])
def test_a_cache_for_another_number_of_sequences_is_refused(batch_size):
    cache = KVCache(1, batch_size, K, T, D)
    with pytest.raises(ValueError, match=f"for {batch_size} sequences, not for {B}"):
        attention()(heads(B, T, C), cache=cache)
    assert cache.length == 0


def test_a_chunk_of_no_tokens_changes_nothing():
    model, x = attention(), heads(B, T, C)
    cache = KVCache(1, B, K, T, D)
    assert model(x[:, :0]).shape == (B, 0, C)
    for chunk in (x[:, :2], x[:, :0], x[:, 2:]):
        last = model(chunk, cache=cache)
    assert_close(last, model(x)[:, 2:])
