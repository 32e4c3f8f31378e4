"""The rungs are what they say they are: by hand, against slow counting, and above the floor."""

import gzip
import lzma
import math
import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ch01_overview import ladder, machine, solutions
from ch01_overview.corpus import SEPARATOR, load_text, stories
from ch01_overview.ladder import (
    compressed_bits,
    count_rungs,
    draw_ladder,
    floor_bits,
    ladder_texts,
    ngram_curve,
    ngram_surprise,
    uniform_bits,
)
from ch02_tokenization.tokenizer import CONTROL_TOKENS, train_bpe
from ch05_pretraining import recipes


def told(n: int, seed: int) -> str:
    return "".join(story.text + SEPARATOR for story in stories(n, seed))


@pytest.fixture(scope="module")
def texts() -> tuple[str, str]:
    return told(150, seed=1), told(50, seed=2)


def test_the_uniform_model_pays_eight_bits_for_a_byte():
    assert uniform_bits() == 8


def test_a_unigram_by_hand():
    # In "aab": n = 3, t = 2. P(a) = (2 + 2/256) / 5, P(c) = (0 + 2/256) / 5.
    expected = [-math.log2((2 + 2 / 256) / 5), -math.log2(2 / 256 / 5)]
    np.testing.assert_allclose(ngram_surprise("aab", "ac", 1), expected)


def test_a_bigram_by_hand_where_the_first_context_reaches_back_into_the_training_text():
    # "abab": after a came b twice (n = 2, t = 1); unigram a: (2 + 2/256) / 6, b alike, c: 2/256/6.
    # After the final b of the training text: b was followed by a once (n = 1, t = 1).
    unigram = (2 + 2 / 256) / 6
    expected = [(1 + unigram) / 2, (2 + unigram) / 3]
    np.testing.assert_allclose(2.0 ** -ngram_surprise("abab", "ab", 2), expected)


@pytest.mark.parametrize("order", [1, 2, 3, 5, 11])
def test_the_solution_of_the_exercise_counts_the_same(order):
    train, val = told(7, seed=3), told(2, seed=4)
    expected = solutions.witten_bell(train, val, order)
    np.testing.assert_allclose(ngram_surprise(train, val, order), expected)


@given(st.text(min_size=1), st.text(min_size=1), st.integers(1, 4))
def test_any_text_costs_a_finite_number_of_bits_above_zero(train, val, order):
    bits = ngram_surprise(train, val, order)
    assert bits.shape == (len(val.encode()),)
    assert np.isfinite(bits).all()
    assert (bits > 0).all()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_probabilities_of_all_bytes_sum_to_one(order):
    def chance(end: str) -> float:
        """P(first byte of `end` | "an")."""
        return 2.0 ** -ngram_surprise("a man ran and an ant sat", "an" + end, order)[2]

    seen_or_not = sum(chance(chr(c)) for c in range(128))
    assert math.isclose(seen_or_not + 128 * chance("é"), 1)  # no byte above 127 was ever seen


def test_the_curve_has_the_mean_surprise_of_each_order(texts):
    curve = ngram_curve(*texts, 4)
    expected = [ngram_surprise(*texts, order).mean() for order in (1, 2, 3, 4)]
    np.testing.assert_allclose(curve, expected)
    assert curve == sorted(curve, reverse=True)


def test_a_compressor_is_charged_for_what_the_file_grows_by():
    noise = np.random.default_rng(0).integers(97, 123, size=5_000).astype(np.uint8)
    train = noise.tobytes().decode()
    assert compressed_bits(gzip.compress, train, train[:2_000]) < 0.3  # seen a moment ago
    assert compressed_bits(lambda data: data, train, "ab") == 8
    assert compressed_bits(lambda data: data, "café", "été") == 8  # three letters, five bytes


def test_gzip_forgets_what_is_further_back_than_its_window_and_xz_does_not():
    noise = np.random.default_rng(0).integers(97, 123, size=60_000).astype(np.uint8)
    train = noise.tobytes().decode()
    assert compressed_bits(gzip.compress, train, train[:2_000]) > 4
    assert compressed_bits(lzma.compress, train, train[:2_000]) < 1


def test_the_floor_is_what_the_stories_noted_while_they_were_told():
    told_now = stories(31, seed=5)
    val = "".join(story.text + SEPARATOR for story in told_now)
    expected = -sum(story.log_prob for story in told_now) / math.log(2) / len(val.encode())
    assert math.isclose(floor_bits(val), expected)


def test_a_text_that_begins_in_mid_story_has_the_floor_of_the_stories_that_are_whole():
    whole = told(12, seed=6)
    assert floor_bits("eft of a story." + SEPARATOR + whole) == floor_bits(whole)
    assert floor_bits("No story." + SEPARATOR + "Nor this." + SEPARATOR + whole) is None
    assert floor_bits(whole + "No story." + SEPARATOR) is None


@pytest.mark.parametrize("val", ["To be, or not to be", "no story\n\nnor this one\n\n", "\n\n"])
def test_a_text_that_is_no_story_has_no_floor(val):
    assert floor_bits(val) is None
    assert "floor" not in count_rungs("some text to count in", val)


def test_the_rungs_come_from_the_worst_to_the_floor(texts):
    rungs = count_rungs(*texts)
    assert list(rungs) == ["uniform", "unigram", "bigram", "trigram", "gzip", "xz", "floor"]
    assert list(rungs.values()) == sorted(rungs.values(), reverse=True)


def test_no_order_gets_below_the_floor_on_text_that_it_did_not_count(texts):
    assert min(ngram_curve(*texts, 16)) > floor_bits(texts[1])


def test_a_model_tested_on_what_it_counted_gets_below_the_floor(texts):
    _, val = texts
    assert ngram_curve(val, val, 24)[-1] < floor_bits(val)


def test_the_texts_of_the_ladder_share_no_story():
    train, val = (text.removesuffix(SEPARATOR).split(SEPARATOR) for text in ladder_texts())
    assert (len(train), len(val)) == (3_000, 1_000)
    assert (ladder.N_TRAIN, ladder.N_VAL) == (3_000, 1_000)
    assert not set(train) & set(val)
    assert val == [story.text for story in stories(1_000, seed=0)]


def test_no_held_out_story_is_in_the_text_to_learn_from():
    held_out = {story.text for story in stories(1_000, seed=0)}
    assert held_out.isdisjoint(load_text().removesuffix(SEPARATOR).split(SEPARATOR))
    assert load_text() == ladder_texts()[0]


def test_chapter_5_is_tested_on_the_text_of_the_ladder():
    assert recipes.N_VAL_STORIES == ladder.N_VAL
    tokenizer = train_bpe("a short text", 300, CONTROL_TOKENS)
    assert recipes.held_out_stories(tokenizer).val_bytes == len(ladder_texts()[1].encode())


@pytest.mark.parametrize(("train", "val"), [("", "a"), ("a", ""), ("", "")])
def test_an_empty_text_is_refused_with_both_lengths(train, val):
    for measure in (
        lambda: ngram_curve(train, val, 2),
        lambda: compressed_bits(gzip.compress, train, val),
        lambda: count_rungs(train, val),
    ):
        with pytest.raises(ValueError, match=f"{len(train)} and {len(val)} characters"):
            measure()


@pytest.mark.parametrize("order", [0, -1])
def test_an_order_below_one_is_refused(order):
    with pytest.raises(ValueError, match=f"{order}; it must be at least 1"):
        ngram_surprise("a", "b", order)


def test_the_chart_has_every_rung_and_takes_more_by_name():
    rungs = {"uniform": 8.0, "bigram": 3.3, "floor": 0.2} | {"one layer of attention": 0.9}
    figure = draw_ladder(rungs, highlight="one layer of attention")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["floor", "one layer of attention", "bigram", "uniform"]
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any("4.5 × floor" in text for text in texts)
    plt.close(figure)


def test_the_axis_is_logarithmic():
    figure = draw_ladder({"uniform": 8.0, "bigram": 3.3, "floor": 0.2})
    assert figure.axes[0].get_xscale() == "log"
    plt.close(figure)


def test_what_is_highlighted_looks_unlike_the_rest():
    figure = draw_ladder({"uniform": 8.0, "bigram": 3.3, "gzip": 1.4}, highlight="bigram")
    points = {line.get_xdata()[0]: line for line in figure.axes[0].lines if line.get_marker()}
    looks = {bits: (line.get_marker(), line.get_color()) for bits, line in points.items()}
    assert looks[8.0] == looks[1.4]
    assert all(one != other for one, other in zip(looks[3.3], looks[8.0], strict=True))
    bold = [text.get_text() for text in figure.axes[0].texts if text.get_weight() == "bold"]
    assert bold == ["3.3"]
    plt.close(figure)


def test_a_chart_without_a_floor_draws_the_rungs_alone():
    figure = draw_ladder({"uniform": 8.0, "bigram": 3.3}, highlight=("uniform", "bigram"))
    assert not any("floor" in text.get_text() for text in figure.axes[0].texts)
    plt.close(figure)


@pytest.mark.parametrize(
    ("rungs", "highlight", "message"),
    [
        ({}, (), "needs rungs"),
        ({"a": 0.0}, (), "above 0"),
        ({"a": 1.0}, "b", "'b'"),
    ],
)
def test_a_chart_that_cannot_be_drawn_is_refused(rungs, highlight, message):
    with pytest.raises(ValueError, match=message):
        draw_ladder(rungs, highlight)


def test_the_machine_is_described_with_numbers_that_can_be():
    assert machine.memory_gib() is None or machine.memory_gib() > 0.5
    assert machine.matmul_speed(torch.float32, size=101, seconds=0.01) > 0.01
    with pytest.raises(ValueError, match="size 0"):
        machine.matmul_speed(torch.float32, size=0)


def test_the_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert machine.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


def test_the_fastest_product_counts_with_two_operations_for_each_pair(monkeypatch):
    # The clock is read before the loop, then before and after each product: they take 2, 1 and 4 s.
    clock = iter([0, 0, 2, 2, 3, 3, 7])
    monkeypatch.setattr(machine, "perf_counter", lambda: next(clock))
    speed = machine.matmul_speed(torch.float32, size=10, seconds=5)
    assert math.isclose(speed, 2 * 10**3 / 1 / 1e9)
