"""Facts about counting, the plain baseline, and what the benchmark of chapter 5 measures."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ch01_overview.corpus import stories
from ch01_overview.ladder import ngram_curve
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining import benchmark, studies
from ch05_pretraining.benchmark import (
    PLAIN,
    PlainGPT,
    Result,
    encode_letters,
    encode_text,
    plain_rate,
    plain_recipe,
    run_preset,
    token_probabilities,
    with_counts,
)
from ch05_pretraining.config import TrainConfig
from ch05_pretraining.counts import counted_probabilities
from ch05_pretraining.evaluation import evaluate
from ch05_pretraining.recipes import PRESETS, Preset

TEXTS = tuple("\n".join(s.text for s in stories(n, seed)) for n, seed in ((60, 1), (7, 0)))
TINY = Preset(
    GPTConfig.qwen3(
        vocab_size=307, context_length=31, n_layers=1, n_heads=2, d_model=20, tied=False
    ),
    TrainConfig(steps=3, batch_size=5, context_length=31),
    n_stories=7,
)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=11, max_size=37), st.integers(1, 5), st.data())
def test_counted_probabilities_of_all_ids_sum_to_one_after_any_context(seen, order, data):
    context = data.draw(st.lists(st.integers(0, 4), max_size=7))
    rivals = [np.array([*context, i]) for i in range(5)]
    p = [counted_probabilities(np.array(seen), ids, 5, order)[-1] for ids in rivals]
    assert sum(p) == pytest.approx(1)
    assert min(p) >= 0


def test_single_ids_are_counted_by_hand():
    seen = np.array([0] * 7 + [1, 1, 2])  # counts 7, 2, 1: one of one, one of two, none of 3 or 4
    y = 1 / (1 + 2 * 1)  # and a count of none is taken to be one
    d1, d2, d3 = 1 - 2 * y, 2 - 3 * y, 3 - 4 * y
    saved = (d1 + d2 + d3) / 10 / 4  # shared by four ids
    expected = [(7 - d3) / 10 + saved, (2 - d2) / 10 + saved, (1 - d1) / 10 + saved, saved]
    counted = counted_probabilities(seen, np.array([0, 1, 2, 3]), 4, order=1)
    np.testing.assert_allclose(counted, expected)


def test_what_always_follows_one_id_is_not_expected_after_another():
    # 1 comes twelve times, always after 0; 2 comes six times, each time after another id.
    seen = np.array([0, 1] * 12 + [2, 3, 2, 4, 2, 5, 2, 6, 2, 7, 2, 8])
    after_new = [counted_probabilities(seen, np.array([9, i]), 10, 2)[-1] for i in range(10)]
    assert after_new[2] > 2 * after_new[1]


def test_long_contexts_do_less_harm_than_in_chapter_1():
    train, val = TEXTS
    ids, val_ids = (np.frombuffer(text.encode(), dtype=np.uint8) for text in TEXTS)
    nats = -np.log(counted_probabilities(ids, val_ids, 256, 9)).mean()
    assert nats < math.log(2) * ngram_curve(train, val, 9)[-1]


def test_an_order_without_ids_is_refused():
    with pytest.raises(ValueError, match="the order is 7, must be from 1 to the 5 ids"):
        counted_probabilities(np.arange(5), np.arange(3), 5, 7)


def test_the_baseline_has_as_many_parameters_as_nanogpt_says():
    model = PlainGPT(PLAIN)
    positions = model.wpe.weight.numel()
    assert round((sum(p.numel() for p in model.parameters()) - positions) / 1e6, 2) == 0.80


def test_the_baseline_sees_no_future_and_begins_near_log_v():
    torch.manual_seed(0)
    model, ids = PlainGPT(PLAIN), torch.randint(65, (3, 23))
    logits, changed = model(ids), ids.clone()
    changed[:, 17:] = 0
    torch.testing.assert_close(model(changed)[:, :17], logits[:, :17])
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].mT, ids[:, 1:])
    assert loss.item() == pytest.approx(math.log(65), abs=0.15)


def test_the_baselines_rate_climbs_and_falls_to_a_tenth():
    rates = [plain_rate(step, 2_000) for step in range(2_000)]
    assert rates[0] == pytest.approx(1e-3 / 101)
    assert max(rates) == rates[100] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)


def test_both_encodings_predict_every_character_of_the_held_out_text():
    train, val = TEXTS
    ids, val_ids = encode_letters(train, val, 65)
    assert (len(ids), len(val_ids)) == (len(train), len(val) + 1)
    ids, val_ids = encode_text(train, val, 307)
    assert ids[-1] == val_ids[0]
    assert len(val_ids) <= len(val)
    with pytest.raises(ValueError, match="different characters, for 11 there is room"):
        encode_letters(train, val, 11)


def test_the_probabilities_of_tokens_are_those_that_evaluate_averages():
    torch.manual_seed(0)
    model, ids = GPT(TINY.model), torch.randint(307, (101,))
    torch.nn.init.normal_(model.head.weight, std=0.2)
    p = token_probabilities(model, ids)
    assert len(p) == 100
    assert -p.log().mean().item() == pytest.approx(evaluate(model, ids), rel=1e-5)


def test_a_result_that_missed_needs_infinitely_many_seconds():
    result = Result(seconds=7.0, loss=1.5, model=None)
    assert result.seconds_to(1.5) == 7.0
    assert result.seconds_to(1.4999) == math.inf


def test_recipes_learn_and_counts_help():
    network = run_preset(*TEXTS, TINY)
    counts, both = with_counts(network, *TEXTS)
    assert both.loss < network.loss
    assert both.seconds == pytest.approx(network.seconds + counts.seconds)
    assert plain_recipe(*TEXTS, steps=2).loss == pytest.approx(math.log(65), abs=0.2)


def test_each_claim_is_held_or_missed(monkeypatch, capsys):
    for name in ("laptop", "five-minutes", "two-minutes"):
        monkeypatch.setitem(PRESETS, name, TINY)
    monkeypatch.setattr(benchmark, "load_text", lambda _: "\n".join(TEXTS))
    monkeypatch.setattr(benchmark, "plain_recipe", lambda *_: Result(1.0, 1.9, None))
    monkeypatch.setattr(benchmark, "A100_LOSS", 0.0)
    assert benchmark.main() == 1
    assert capsys.readouterr().out.count("MISSED") == 3


def test_the_ablation_changes_one_part_at_a_time(monkeypatch):
    monkeypatch.setitem(PRESETS, "laptop", TINY)
    monkeypatch.setattr(studies, "load_text", lambda _: "\n".join(TEXTS))
    rows = list(studies.ablation(1.0))
    assert [row["what"] for row in rows] == list(studies.WITHOUT)
    assert all(math.isfinite(row["loss"]) and row["steps"] >= 1 for row in rows)
