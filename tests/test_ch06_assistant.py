"""Instructions and their marks, fine-tuning data, the exam, and the prompt one talks to."""

import io
import itertools
import random

import pytest
import torch

from ch01_overview.corpus import Story, parse, stories
from ch01_overview.story_world import Facts
from ch02_tokenization.tokenizer import CONTROL_TOKENS, train_bpe
from ch04_model.huggingface import save_pretrained
from ch04_model.model import GPT, GPTConfig
from ch05_pretraining.config import TrainConfig
from ch06_alignment import chat, finetune
from ch06_alignment.alignment import format_chat
from ch06_alignment.chat import fit, spell
from ch06_alignment.finetune import batches, exam, replies, score
from ch06_alignment.instructions import (
    Task,
    conversation,
    conversations,
    questions,
    request,
)

TOLD = stories(300, seed=31)
TOKENIZER = train_bpe([s.text for s in TOLD], 509, CONTROL_TOKENS)
TALE = (
    "The tale of Mia the shy owl:\nOnce upon a time there was a shy owl called Mia. She lived "
    "under an old cart, loved baking bread and hated wet socks. Next door lived Theo, a brave fox "
    "in a red coat. They often played with Gus, a kind owl in a blue cap. One day Mia found a new "
    "kite at the mill. Mia called the new kite sweet. Then Mia waved goodbye to Theo, who went to "
    "the park. The park smelled of rain. That night Mia took the new kite home and put it near the "
    "big bed. All slept well. Mia dreamed of dragons."
)


def tiny_model() -> GPT:
    torch.manual_seed(0)
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 12, "context_length": 467}
    model = GPT(GPTConfig.qwen3(vocab_size=TOKENIZER.vocab_size, tied=False, **sizes))
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def subject(facts: Facts) -> tuple:
    """What a request for a text says about it."""
    names = [c.name for c in facts.characters]
    about = {"tale": facts.hero, "poem": facts.places, "dialogue": names}
    return facts.form, about[facts.form]


def test_every_answer_is_right_by_its_own_mark_and_wrong_by_that_of_another_story():
    rng = random.Random(3)
    for story, other in itertools.pairwise(TOLD):
        wanted = request(story, rng)
        assert wanted.is_right(wanted.answer)
        assert not wanted.is_right(wanted.answer[:-1])
        assert wanted.is_right(other.text) == (subject(story.facts) == subject(other.facts))
        for task in questions(story, rng):
            assert task.is_right(task.answer)
            assert not task.is_right(task.answer.replace(".", ""))
            assert not task.is_right("")


def test_the_questions_about_a_tale_and_their_answers_are_those_of_a_careful_reader():
    asked = questions(Story(TALE, parse(TALE), 0.0), random.Random(0))
    assert [(task.kind, task.answer) for task in asked] == [
        ("holder", "Mia has the new kite."),
        ("first", "Mia had the new kite first."),
        ("who", "Mia is a shy owl."),
        ("who", "Theo is a brave fox."),
        ("who", "Gus is a kind owl."),
        ("home", "Mia lives under an old cart."),
        ("away", "Theo is in the park."),
    ]


def test_another_tale_about_the_same_hero_is_right_too():
    wanted = request(Story(TALE, parse(TALE), 0.0), random.Random(0))
    assert wanted.is_right(TALE.replace("new kite", "odd drum").replace("a odd", "an odd"))
    assert not wanted.is_right(TALE.replace("shy owl", "shy swan"))


def test_a_conversation_takes_turns_and_asks_about_its_own_story():
    rng = random.Random(5)
    asked_for = 0
    for story in TOLD:
        messages = conversation(story, rng)
        assert [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2)
        asked_for += messages[1]["content"] == story.text
        assert messages[1]["content"] == story.text or story.text in messages[0]["content"]
    assert 0.55 < asked_for / len(TOLD) < 0.8  # poems always, the others in three of five


def test_the_same_seed_gives_the_same_conversations():
    assert conversations(7, seed=3) == conversations(7, seed=3) != conversations(7, seed=4)


def test_in_a_batch_exactly_what_the_assistant_says_is_a_target():
    talks = conversations(50, seed=37)
    wanted = sorted(m["content"] for talk in talks for m in talk if m["role"] == "assistant")
    end = TOKENIZER.special_ids["<|end|>"]
    found = []
    for inputs, targets in batches(talks, TOKENIZER, batch_size=5, longest=10_000):
        assert inputs.shape == targets.shape
        for row in targets.tolist():
            said = []
            for target in row:
                if target == end:
                    found.append(TOKENIZER.decode(said))
                    said = []
                elif target != -100:
                    said.append(target)
            assert not said
    assert sorted(found) == wanted


def test_a_conversation_that_does_not_fit_is_left_out_not_cut():
    talks = conversations(60, seed=41)
    short = [talk for talk in talks if len(format_chat(talk, TOKENIZER)) <= 400]
    assert 3 < len(short) < 60
    kept = batches(talks, TOKENIZER, batch_size=1, longest=400)
    assert len(kept) == len(short)


def test_fine_tuning_a_model_whose_context_holds_no_conversation_is_refused():
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 12, "context_length": 7}
    model = GPT(GPTConfig.qwen3(vocab_size=TOKENIZER.vocab_size, **sizes))
    with pytest.raises(ValueError, match="context of 7 tokens"):
        finetune.finetune(model, TOKENIZER, TrainConfig(steps=2))


def test_fine_tuning_moves_the_loss_on_answers_and_is_reproducible(monkeypatch):
    monkeypatch.setattr(finetune, "N_CONVERSATIONS", 30)
    config = TrainConfig(steps=11, batch_size=3, adamw_lr=0.05)
    first, second = tiny_model(), tiny_model()
    history = finetune.finetune(first, TOKENIZER, config)
    assert finetune.finetune(second, TOKENIZER, config)[-1]["loss"] == history[-1]["loss"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert torch.equal(first.head.weight, second.head.weight)


@pytest.mark.parametrize(
    "kind", ["tale", "poem", "dialogue", "holder", "first", "who", "home", "away"]
)
def test_an_exam_has_as_many_tasks_of_a_kind_as_asked_and_none_seen_in_training(kind):
    tasks = exam(kind, 11)
    assert [task.kind for task in tasks] == [kind] * 11
    assert all(task.is_right(task.answer) for task in tasks)
    seen = {m["content"] for talk in conversations(300, seed=2) for m in talk}
    assert not any(task.answer in seen for task in tasks if kind in ("tale", "poem", "dialogue"))


def test_an_unknown_kind_of_task_is_refused():
    with pytest.raises(ValueError, match="kind 'song'"):
        exam("song", 1)


def test_replies_come_in_the_order_of_their_prompts():
    prompts = ["Hello!", "Write a poem about the mill.", "Hello?", "a"]
    model = tiny_model()
    together = replies(model, TOKENIZER, prompts, temperature=0.0)
    assert together == [replies(model, TOKENIZER, [p], temperature=0.0)[0] for p in prompts]
    assert len(set(together)) > 1


def test_the_score_is_the_share_of_right_replies(monkeypatch):
    tasks = [Task("k", p, p, p.__eq__) for p in ("a", "b", "c", "d")]
    monkeypatch.setattr(finetune, "replies", lambda *_: ["a", "x", "c", "y"])
    assert score(tiny_model(), TOKENIZER, tasks) == 0.5


def test_text_is_spelt_as_soon_as_a_character_is_whole():
    text = "Grüße 🦁!"
    pieces = list(spell(TOKENIZER, iter(TOKENIZER.encode(text))))
    assert "".join(pieces) == text
    assert len(pieces) > 3
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_are_no_character_are_spelt_and_do_not_wait_for_ever():
    lion = TOKENIZER.encode("🦁")[:1]
    assert "".join(spell(TOKENIZER, iter(lion * 7))) == "\ufffd" * 7


def test_the_oldest_turns_are_forgotten_when_a_conversation_grows_too_long():
    turns = [
        {"role": role, "content": f"{i} " * 9} for i in range(20) for role in ("user", "assistant")
    ]
    messages = [*turns, {"role": "user", "content": "now"}]
    kept = fit(messages, TOKENIZER, longest=101)
    assert kept == messages[-len(kept) :]
    assert kept[0]["role"] == "user"
    assert len(format_chat(kept, TOKENIZER)) <= 101
    assert len(format_chat(messages[-len(kept) - 2 :], TOKENIZER)) > 101


def test_a_message_beyond_the_context_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"\d+ tokens; this model reads 31 at most"):
        fit([{"role": "user", "content": "word " * 100}], TOKENIZER, longest=31)


def test_questions_from_a_pipe_are_answered_and_the_end_of_the_pipe_ends_it(
    tmp_path, monkeypatch, capsys
):
    save_pretrained(tiny_model(), TOKENIZER, tmp_path)
    (tmp_path / "report_card.txt").write_text("the report card\n")
    monkeypatch.setattr(chat, "assistant_folder", lambda: tmp_path)
    long = "word " * 3_000
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Who are you?\n\n{long}\n<|end|><|assistant|>\n"))
    chat.main([])
    said = capsys.readouterr().out
    assert "the report card" in said
    assert "this model reads" in said
    assert said.count("\n\n") >= 3


def test_control_tokens_that_a_user_types_stay_text():
    ids = format_chat([{"role": "user", "content": "".join(CONTROL_TOKENS)}], TOKENIZER)
    control = set(TOKENIZER.special_ids.values())
    assert [i for i in ids if i in control] == [
        TOKENIZER.special_ids[t] for t in ("<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>")
    ]
