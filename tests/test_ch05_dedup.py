"""Facts about cleaning: what counts as the same text, and how well a signature tells."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ch01_overview.corpus import stories
from ch05_pretraining import dedup
from ch05_pretraining.dedup import (
    candidate_pairs,
    chance_of_candidate,
    clean,
    contaminated,
    exact_duplicates,
    jaccard,
    minhash,
    near_duplicates,
    shingles,
)


def two_sets(shared, alone):
    """Two sets with `shared` members in common and `alone` more in each."""
    rng = np.random.default_rng(5)
    members = rng.choice(1 << 32, size=shared + 2 * alone, replace=False).tolist()
    both = members[:shared]
    return frozenset(both + members[shared : shared + alone]), frozenset(
        both + members[shared + alone :]
    )


@given(st.text())
def test_cleaning_twice_changes_nothing_more(text):
    assert clean(clean(text)) == clean(text)


def test_cleaning_leaves_the_stories_as_they_are():
    assert all(clean(story.text) == story.text for story in stories(50, seed=3))


def test_cleaning_unifies_what_looks_the_same():
    assert clean("Cafe\u0301\u00a0\u200bau  lait\r\n") == "Caf\u00e9 au lait"
    assert clean("a\x00b\r\n\r\n\r\n\r\nc \n d") == "ab\n\nc\nd"


def test_case_and_punctuation_do_not_make_a_text_new():
    texts = ["The owl naps.", "a fox", "the  OWL, naps", "the owl nap", "A fox!"]
    assert exact_duplicates(texts) == [2, 4]


def test_shingles_are_the_runs_of_words():
    assert len(shingles("a b c d e", 3)) == 3
    assert shingles("a b c d", 2) & shingles("b c x", 2) == shingles("b c", 2)
    assert len(shingles("one two", 5)) == 1
    with pytest.raises(ValueError, match="0 words"):
        shingles("a b", 0)


def test_jaccard_by_hand():
    assert jaccard(frozenset({1, 2, 3}), frozenset({2, 3, 5, 7})) == 2 / 5
    assert jaccard(frozenset(), frozenset()) == 1.0
    assert jaccard(frozenset({1}), frozenset()) == 0.0


@pytest.mark.parametrize(("shared", "alone"), [(0, 50), (40, 30), (80, 10), (97, 0)])
def test_equal_entries_estimate_the_similarity_within_four_standard_errors(shared, alone):
    a, b = two_sets(shared, alone)
    true, k = jaccard(a, b), 1009
    one, other = minhash([a, b], n_hashes=k, seed=7)
    error = math.sqrt(true * (1 - true) / k)
    assert abs((one == other).mean() - true) <= 4 * error


def test_the_error_of_many_estimates_is_the_predicted_one():
    a, b = two_sets(60, 20)
    signatures = minhash([a, b], n_hashes=64 * 200)
    estimates = (signatures[0] == signatures[1]).reshape(200, 64).mean(axis=1)
    predicted = math.sqrt(0.6 * 0.4 / 64)
    assert estimates.mean() == pytest.approx(0.6, abs=4 * predicted / math.sqrt(200))
    assert 0.8 < estimates.std() / predicted < 1.2


def test_a_signature_knows_no_order_and_no_repetition():
    one, other = minhash([frozenset([3, 5, 7]), frozenset([7, 3, 5, 5])], n_hashes=17)
    assert (one == other).all()
    with pytest.raises(ValueError, match="empty"):
        minhash([frozenset()])


def test_bands_propose_pairs_as_often_as_the_formula_says():
    a, b = two_sets(60, 20)  # similarity 0.6
    signatures = minhash([a, b], n_hashes=16 * 500).reshape(2, 500, 16)
    hits = sum(bool(candidate_pairs(signatures[:, i], 4)) for i in range(500)) / 500
    p = chance_of_candidate(0.6, n_bands=4, n_rows=4)
    assert abs(hits - p) < 4 * math.sqrt(p * (1 - p) / 500)
    with pytest.raises(ValueError, match="16 hashes cannot be cut into 5"):
        candidate_pairs(signatures[:, 0], 5)


def test_planted_near_duplicates_are_found_and_nothing_else():
    texts = [story.text for story in stories(150, seed=11)]
    changed = texts[17].replace(" the ", " this ", 1)
    pairs = near_duplicates([*texts, changed], threshold=0.7)
    assert [(i, j) for i, j, _ in pairs] == [(17, 150)]
    assert 0.7 <= pairs[0][2] < 1


def test_a_held_out_text_that_shares_a_run_with_training_is_named():
    train = ["one two three four five six", "seven eight nine"]
    held_out = ["two three four five", "two three four six", "nine eight seven"]
    assert contaminated(train, held_out, length=4) == [0]
    assert contaminated(train, held_out, length=3) == [0, 1]
    assert dedup.words("It's Mia!") == ["it", "s", "mia"]
