"""The corpus: exact probabilities, exact facts, and text that is what it says it is."""

import hashlib
import math
import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ch01_overview import corpus, story_world
from ch01_overview.corpus import Story, load_text, log_prob, parse, stories, train_val_split
from ch01_overview.files import write_whole
from ch01_overview.story_world import Character, Facts

TALE = (
    "The tale of Mia the shy owl:\nOnce upon a time there was a shy owl called Mia. She lived "
    "under an old cart, loved baking bread and hated wet socks. Next door lived Theo, a brave fox "
    "in a red coat. They often played with Gus, a kind owl in a blue cap. One day Mia found a new "
    "kite at the mill. Mia called the new kite sweet."
)


class Checker(corpus.Writer):
    """A writer that holds every pick against the rule: no piece begins another, none is empty."""

    seen: ClassVar[set[tuple[str, ...]]] = set()

    def pick(self, options):
        options = tuple(options)
        if options not in self.seen:
            ordered = sorted(options)  # a beginning stands right before what it begins
            assert all(ordered), "an empty piece leaves no trace"
            assert not any(b.startswith(a) for a, b in pairwise(ordered)), f"not unique: {options}"
            self.seen.add(options)
        return super().pick(options)


def test_100_000_texts_give_back_their_facts_and_their_probability():
    for story in stories(100_000, seed=11):
        reader = corpus.Reader(story.text)
        assert story_world.tell(reader) == story.facts
        assert reader.position == len(story.text)
        assert math.isclose(reader.log_prob, story.log_prob, rel_tol=1e-9)


def test_no_piece_of_a_pick_begins_another_so_that_a_text_has_one_derivation():
    rng = random.Random(13)
    for _ in range(20_000):
        story_world.tell(Checker(rng))
    assert len(Checker.seen) > 1_000


def test_the_check_for_uniqueness_notices_a_piece_that_begins_another():
    with pytest.raises(AssertionError, match="not unique"):
        Checker(random.Random(0)).pick(["bear", "hare", "bea"])


def test_the_probability_of_a_text_is_the_product_of_its_choices_worked_by_hand():
    story = next(s for s in stories(1_000, seed=3) if s.facts.form == "poem")
    lines = [line.strip(",.") for line in story.text.splitlines()]
    kind = story.facts.hero.kind
    openings = ("TALE_TITLES", "POEM_OPENINGS", "DIALOGUE_OPENINGS")
    n_openings = sum(len(getattr(story_world, name)) for name in openings)
    words = ("TRAITS", "KINDS", "COLOURS", "CLOTHES", "PLACES", "REFRAINS")
    chances = [n_openings, *(len(getattr(story_world, name)) for name in words)]
    for line, rhymes in zip(lines[1:7:2], story_world.RHYMES, strict=True):
        chances.append(sum(len(first_lines) for first_lines, _ in rhymes))
        told = [[option.replace("*", kind) for option in first] for first, _ in rhymes]
        chances.append(next(len(s) for f, (_, s) in zip(told, rhymes, strict=True) if line in f))
    assert math.isclose(story.log_prob, -math.log(math.prod(chances)))


def test_log_prob_of_a_text_is_that_of_the_story_and_minus_infinity_for_anything_else():
    story = stories(1, seed=5)[0]
    assert math.isclose(log_prob(story.text), story.log_prob)
    assert log_prob(story.text + " ") == -math.inf


def test_texts_occur_as_often_as_their_probability_says():
    openings = Counter(s.text.split(" ")[0] for s in stories(30_000, seed=17))
    n = 30_000
    for first_word, share in {"The": 4 / 12, "A": 5 / 12, '"Hello,': 1 / 12}.items():
        sigma = math.sqrt(n * share * (1 - share))
        assert abs(openings[first_word] - n * share) < 5 * sigma


def test_the_same_seed_tells_the_same_stories_and_another_seed_others():
    assert stories(20, seed=7) == stories(20, seed=7)
    assert stories(20, seed=7)[:5] == stories(5, seed=7)
    assert not {s.text for s in stories(200, seed=7)} & {s.text for s in stories(200, seed=8)}


def test_the_world_is_large_enough_to_be_worth_learning():
    sample = stories(5_000, seed=19)
    words = {w for s in sample for w in s.text.replace("\n", " ").split(" ")}
    assert len({w.strip('.,:!?"').lower() for w in words}) > 400
    assert len({s.text for s in sample}) == len(sample)
    assert {len(s.facts.holders) for s in sample if s.facts.form == "tale"} == {1, 2, 3, 4, 5, 6, 7}
    assert any(s.facts.away for s in sample)
    assert any(len(s.facts.places) > 1 for s in sample)


def test_nobody_in_a_text_has_the_name_of_another():
    for story in stories(3_000, seed=21):
        names = [c.name for c in story.facts.characters]
        assert len(set(names)) == len(names)


def test_articles_fit_the_words_after_them():
    text = " ".join(s.text for s in stories(3_000, seed=23))
    words = text.replace("\n", " ").split(" ")
    for article, word in pairwise(words):
        if article in ("a", "an"):
            sounds_like_a_vowel = word == "honest" or (word[0] in "aeiou" and word != "useful")
            assert (article == "an") == sounds_like_a_vowel, f"{article} {word}"


def test_facts_are_those_a_reader_would_find():
    text = TALE + (
        " Then Mia swapped the new kite for two plums from Theo. Theo was as happy as a bee. Soon "
        "they all went to the park. The park smelled of rain. A little later, Theo waved goodbye "
        "to Mia, who went to the harbour. Over the harbour a bird sang of honey. That night Theo "
        "took the new kite home and put it near the big bed. All slept well. Theo dreamed of "
        "dragons."
    )
    assert parse(text) == Facts(
        form="tale",
        characters=(
            Character("Mia", "shy", "owl"),
            Character("Theo", "brave", "fox"),
            Character("Gus", "kind", "owl"),
        ),
        home="under an old cart",
        loves="baking bread",
        thing="new kite",
        holders=("Mia", "Theo"),
        places=("at the mill", "in the park"),
        away=(("Mia", "at the harbour"),),
    )


def test_a_single_wrong_word_makes_a_text_no_story():
    story = next(s for s in stories(100, seed=29) if s.facts.form == "tale" and not s.facts.away)
    holder, hero = story.facts.holder, story.facts.hero
    wrong = [
        story.text.replace(hero.kind, "unicorn"),
        story.text.replace("She " if hero.she == "She" else "He ", "It "),
        story.text.replace(f"{holder} took", "Nobody took").replace(
            f"{holder} carried", "Nobody carried"
        ),
        story.text[:-1],
        story.text[1:],
        story.text + "\n",
        story.text.upper(),
        "",
    ]
    wrong = [text for text in wrong if text != story.text]
    assert len(wrong) >= 7
    assert [parse(text) for text in wrong] == [None] * len(wrong)


def test_giving_away_what_one_does_not_have_is_no_story():
    told = (
        TALE + " Then {} gave the new kite to {}. {} was as happy as a bee. That night {} took the "
        "new kite home and put it near the big bed. All slept well. {} dreamed of dragons."
    )
    assert parse(told.format("Mia", "Theo", "Theo", "Theo", "Theo")) is not None
    assert parse(told.format("Theo", "Mia", "Mia", "Mia", "Mia")) is None
    assert parse(told.format("Mia", "Theo", "Theo", "Mia", "Mia")) is None


@given(st.text())
def test_parse_of_any_text_neither_raises_nor_takes_it_for_a_story(text):
    assert parse(text) is None


@given(st.integers(0, 2**32), st.data())
def test_parse_of_a_damaged_story_agrees_with_what_can_be_told(seed, data):
    story = stories(1, seed=seed)[0]
    at = data.draw(st.integers(0, len(story.text) - 1))
    letter = data.draw(st.characters())
    damaged = story.text[:at] + letter + story.text[at + 1 :]
    if damaged != story.text:
        facts = parse(damaged)
        assert facts is None or log_prob(damaged) > -math.inf


def test_a_number_of_stories_below_zero_is_refused():
    with pytest.raises(ValueError, match="-3"):
        stories(-3)


def test_the_story_text_is_stories_with_a_blank_line_after_each():
    text = load_text()
    texts = text.split("\n\n")
    assert texts.pop() == ""
    assert texts == [s.text for s in stories(len(texts), corpus.TRAIN_SEED)]
    assert 500_000 < len(text) < 2_000_000
    assert isinstance(stories(1)[0], Story)


def test_a_file_of_ones_own_is_read_as_it_is(tmp_path):
    path = tmp_path / "own.txt"
    path.write_bytes("Grüße, 世界!\r\n".encode())
    assert load_text(path) == load_text(str(path)) == "Grüße, 世界!\r\n"


@pytest.mark.parametrize(
    ("content", "cause"), [(None, "no file"), (b"", "empty"), (b"caf\xe9 au lait", "byte 3")]
)
def test_a_file_that_is_missing_empty_or_not_utf8_is_refused_by_name(tmp_path, content, cause):
    path = tmp_path / "own.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=cause) as error:
        load_text(path)
    assert "own.txt" in str(error.value)


def test_shakespeare_is_found_in_the_data_folder_and_verified(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_DATA_DIR", str(tmp_path))
    (tmp_path / "shakespeare.txt").write_text("To be, or not?")
    with pytest.raises(ValueError, match=r"shakespeare\.txt is not Tiny Shakespeare"):
        load_text("shakespeare")


def test_shakespeare_offline_and_not_cached_says_which_file_to_put_where(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.delenv("LLM_DATA_DIR", raising=False)
    monkeypatch.setenv("LLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus.pooch, "retrieve", offline)
    with pytest.raises(ValueError, match=r"Put the file shakespeare\.txt") as error:
        load_text("shakespeare")
    assert str(tmp_path / "cache") in str(error.value)


@pytest.mark.skipif(
    not Path(os.environ.get("LLM_DATA_DIR", "/nowhere"), "shakespeare.txt").is_file(),
    reason="Tiny Shakespeare is not in $LLM_DATA_DIR",
)
def test_shakespeare_is_the_text_that_everybody_measures_on():
    text = load_text("shakespeare")
    assert len(text) == 1_115_394
    assert hashlib.sha256(text.encode()).hexdigest() == corpus.SHAKESPEARE_SHA256
    train, val = train_val_split(text)
    assert (len(train), len(val)) == (1_003_854, 111_540)  # nanoGPT's split


def test_a_split_keeps_every_character_in_order():
    text = "".join(map(chr, range(97, 120)))
    train, val = train_val_split(text, 0.3)
    assert train + val == text
    assert len(val) == 7


@pytest.mark.parametrize(
    ("text", "fraction"), [("abc", 0.0), ("abc", 1.0), ("abc", -1), ("a", 0.5)]
)
def test_a_split_that_would_leave_a_part_empty_is_refused(text, fraction):
    with pytest.raises(ValueError, match=str(fraction)):
        train_val_split(text, fraction)


def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_whole(path, "old")

    def crash(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
