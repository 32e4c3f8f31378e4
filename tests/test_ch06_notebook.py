"""What stands beside the notebook of chapter 6: measures, samples, pairs, and the puzzle."""

import copy
import math
import random

import matplotlib.pyplot as plt
import pytest
import torch
from torch.testing import assert_close

from ch01_overview.corpus import stories
from ch02_tokenization.tokenizer import CONTROL_TOKENS, train_bpe
from ch04_model.model import GPT, GPTConfig
from ch06_alignment import figures, measures
from ch06_alignment.alignment import END, RewardModel, sequence_logps, token_logps
from ch06_alignment.hands import MOST_CHANGES, hands_task, hands_tasks
from ch06_alignment.instructions import Task
from ch06_alignment.replies import Replies, drift, each_once, frozen, mark, same_length, sample
from ch06_alignment.rl import (
    preference_pairs,
    reward_by,
    train_dpo,
    train_grpo,
    train_reward,
)
from ch06_alignment.studies import drawer, load_study, main

TOLD = stories(200, seed=41)
TOKENIZER = train_bpe([story.text for story in TOLD], 400, CONTROL_TOKENS)
END_ID = TOKENIZER.special_ids[END]


def tiny_model(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    sizes = {"n_layers": 2, "n_heads": 3, "n_kv_heads": 1, "d_model": 12, "context_length": 131}
    model = GPT(GPTConfig.qwen3(vocab_size=TOKENIZER.vocab_size, tied=False, **sizes))
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return model.eval()


def task(prompt: str, answer: str) -> Task:
    return Task("test", prompt, answer, answer.__eq__)


TASKS = [
    task("Who has it?", "Mia."),
    task("Where is the old owl now?", "Away."),
    task("Why?", "No."),
]


def test_the_chance_of_an_answer_is_the_product_of_its_tokens_probabilities():
    model, rows = tiny_model(), measures.as_chat(TASKS, TOKENIZER)
    got = measures.chance_right(model, rows)
    for chance, (ids, marked) in zip(got, rows, strict=True):
        probs = model(torch.tensor([ids]))[0].softmax(-1)
        by_hand = math.prod(probs[t - 1, ids[t]].item() for t in range(len(ids)) if marked[t])
        assert_close(chance.item(), by_hand, rtol=1e-4, atol=0)


def test_a_low_temperature_makes_the_greedy_answer_certain_and_others_impossible():
    model = tiny_model()
    said = sample(model, TOKENIZER, ["Who?", "Why?"], 1, temperature=0, longest=5)
    ids, mask = said.ids.tolist(), said.mask.tolist()
    rows = list(zip(ids, mask, strict=True))
    assert_close(measures.chance_right(model, rows, 1e-4), torch.ones(2))
    assert measures.greedy_right(model, rows).tolist() == [1, 1]
    place = mask[0].index(True)
    ids[0][place] = (ids[0][place] + 1) % 300
    assert measures.chance_right(model, rows, 1e-4)[0] == 0
    assert measures.greedy_right(model, rows).tolist() == [0, 1]


def test_plain_text_marks_the_continuation_alone():
    (ids, mask), *_ = measures.as_text([("One day", " Mia")], TOKENIZER)
    marked = [i for i, m in zip(ids, mask, strict=True) if m]
    assert TOKENIZER.decode(marked) == " Mia" and ids[0] == TOKENIZER.special_ids[CONTROL_TOKENS[0]]


def test_a_tale_is_cut_before_the_one_who_takes_the_thing_home():
    for story in TOLD:
        if story.facts.form == "tale":
            text, name = measures.last_sentence_of_holder(story)
            rest = story.text[len(text) :]
            assert name == f" {story.facts.holder}" and rest.startswith(name)
            assert rest.count(f"the {story.facts.thing}") == 1 and " home " in rest


def test_wilsons_interval_agrees_with_its_definition():
    for right, n in ((0, 7), (7, 7), (3, 11), (190, 200)):
        low, high = measures.wilson(right, n)
        assert 0 <= low <= right / n <= high <= 1
        for p in {low, high} - {0.0, 1.0}:  # p differs from the share by 1.96 of its own errors
            if 1e-9 < p < 1 - 1e-9:
                assert math.isclose(abs(right / n - p), 1.96 * math.sqrt(p * (1 - p) / n))
    with pytest.raises(ValueError, match="3 right of 2"):
        measures.wilson(3, 2)


def test_calibration_error_by_hand():
    sure = torch.tensor([0.95, 1.0, 0.25, 0.2, 0.2, 0.05])
    right = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
    # |1.95 - 1| in the last bin, |0.65 - 1| in the third, 0.05 in the first, of six replies
    assert math.isclose(
        measures.calibration_error(sure, right), (0.95 + 0.35 + 0.05) / 6, rel_tol=1e-5
    )
    assert measures.calibration_error(torch.ones(3), torch.ones(3)) == 0
    with pytest.raises(ValueError, match="0 replies"):
        measures.calibration_error(sure[:0], right[:0])


def test_mean_and_error_by_hand():
    mean, error = measures.mean_and_error([1.0, 2.0, 3.0])
    assert math.isclose(mean, 2) and math.isclose(error, 1 / math.sqrt(3))
    with pytest.raises(ValueError, match="got 1 values"):
        measures.mean_and_error([1.0])


def test_samples_stand_in_order_beside_their_prompts_and_end_once():
    model, prompts = tiny_model(), [t.prompt for t in TASKS]
    generator = torch.Generator().manual_seed(0)
    said = sample(model, TOKENIZER, prompts, 5, longest=7, generator=generator)
    assert said.ids.shape[0] == 15 and (said.lengths <= 7).all()
    for i, (ids, mask) in enumerate(zip(said.ids, said.mask, strict=True)):
        assert TOKENIZER.decode(ids.tolist()).count(prompts[i // 5]) == 1
        reply = ids[mask].tolist()
        assert END_ID not in reply[:-1]
        assert TOKENIZER.decode([t for t in reply if t != END_ID]) == said.texts[i]


def test_greedy_samples_are_what_the_model_prefers_at_every_token():
    model = tiny_model()
    said = sample(model, TOKENIZER, [t.prompt for t in TASKS], 2, temperature=0, longest=9)
    best = model(said.ids).argmax(-1)
    for ids, mask, preferred in zip(said.ids, said.mask, best, strict=True):
        assert torch.equal(preferred[:-1][mask[1:]], ids[1:][mask[1:]])
    assert said.texts[::2] == said.texts[1::2]


def test_equal_rows_are_computed_once_and_come_out_in_place():
    model, ids = tiny_model(), torch.tensor([[1, 2, 3], [4, 5, 6], [1, 2, 3]])
    assert_close(each_once(model, ids), token_logps(model, ids))


def test_drift_is_zero_from_oneself_and_else_the_mean_log_ratio():
    model, other = tiny_model(), tiny_model(seed=1)
    generator = torch.Generator().manual_seed(0)
    said = sample(model, TOKENIZER, ["Who?"], 4_000, longest=2, generator=generator)
    kl, entropy = drift(model, model, said)
    assert_close(kl, torch.zeros(4_000), rtol=0, atol=1e-5)
    kl, entropy = drift(model, other, said, batch_size=500)
    with torch.no_grad():
        own, others = (sequence_logps(m, said.ids, said.mask) for m in (model, other))
    error = 5 * ((own - others).std() / 4_000**0.5).item()
    assert abs(kl.mean() - (own - others).mean()) < error
    assert abs(entropy.mean() + own.mean()) < 5 * (own.std() / 4_000**0.5)


def test_marks_and_pairs():
    texts = ["Mia.", "Ben.", "Mia.", "Away.", "x", "y", "No.", "No.", "No."]
    said = Replies(torch.zeros(9, 3, dtype=torch.int64), torch.ones(9, 3).bool(), texts)
    marks = mark(said, TASKS)
    assert marks.tolist() == [[1, 0, 1], [1, 0, 0], [1, 1, 1]]
    chosen, rejected = preference_pairs(marks, per_prompt=1)
    assert chosen.tolist() == [0, 3] and rejected.tolist() == [1, 5]


def test_prompts_of_one_length_are_grouped():
    groups = same_length([*TASKS, *TASKS], TOKENIZER, 2)
    assert len(groups) == 3 and all(a.prompt == b.prompt for a, b in groups)
    with pytest.raises(ValueError, match="no 2 of the 3 prompts"):
        drawer(TASKS, TOKENIZER)


@pytest.fixture(scope="module")
def said():
    generator = torch.Generator().manual_seed(0)
    prompts = [t.prompt for t in TASKS]
    return sample(tiny_model(), TOKENIZER, prompts, 6, longest=4, generator=generator)


PAIRS = torch.tensor([0, 1, 6, 7, 12]), torch.tensor([2, 3, 8, 9, 13])


def test_a_reward_model_starts_at_log_2_and_learns_its_pairs(said):
    judge = RewardModel(tiny_model())
    losses = train_reward(judge, said, PAIRS, lr=2e-2, epochs=80)
    assert math.isclose(losses[0], math.log(2), rel_tol=1e-5) and losses[-1] < 0.3
    scores = reward_by(judge)(said, TASKS).flatten()
    assert (scores[PAIRS[0]] > scores[PAIRS[1]]).all()


def test_dpo_starts_at_log_2_and_parts_the_pairs(said):
    history = train_dpo(tiny_model(), said, PAIRS, lr=1e-2, epochs=40)
    assert math.isclose(history[0]["loss"], math.log(2), rel_tol=1e-5)
    assert history[-1]["loss"] < 0.6 and history[-1]["chosen"] > history[-1]["rejected"]


def test_grpo_makes_what_is_rewarded_likelier_and_leaves_the_reference_alone():
    policy = tiny_model()
    reference, before = frozen(policy), copy.deepcopy(policy.state_dict())

    def reward(replies, tasks):
        even = (replies.ids % 2 == 0) & replies.mask
        return (even.sum(1) / replies.lengths).view(len(tasks), -1)

    settings = {"rounds": 25, "lr": 1e-2, "longest": 3, "beta": 0.0}
    history = train_grpo(
        policy, reference, TOKENIZER, lambda _: TASKS, reward, n_samples=16, **settings
    )
    assert history[0]["kl"] == 0 and history[-1]["kl"] > 0
    assert history[-1]["reward"] > history[0]["reward"] + 0.15
    for name, weight in reference.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.parametrize("n_changes", [1, 4, MOST_CHANGES])
def test_a_puzzle_can_be_followed_from_hand_to_hand(n_changes):
    for seed in range(20):
        thinking = hands_task(n_changes, random.Random(seed), thinking=True)
        direct = hands_task(n_changes, random.Random(seed), thinking=False)
        assert thinking.prompt == direct.prompt
        found, given, question = thinking.prompt.split(". ")
        thing = question.removeprefix("Who has the ").removesuffix("?")
        finders = dict(x.split(" by ") for x in found.removeprefix("Found: ").split(", "))
        notes = given.removeprefix("Given: ").split(", ")
        gave = dict(x.split(" to ") for x in notes if " to " in x)
        way = [finders[thing]]
        while way[-1] in gave:
            way.append(gave[way[-1]])
        assert f"{way[-1]} went home" in notes and len(way) == n_changes + 1
        assert direct.answer == f"The {thing} went home with {way[-1]}."
        assert thinking.answer == f"The {thing} {' '.join(way)} home. {direct.answer}"
        assert thinking.is_right(direct.answer) and direct.is_right(thinking.answer)
        assert not thinking.is_right(f"{' '.join(way)} home. The {thing} went home with Zed.")


def test_a_puzzle_has_at_least_one_change_and_no_more_than_there_are_names():
    for n_changes in (0, MOST_CHANGES + 1):
        with pytest.raises(ValueError, match=f"{n_changes} changes"):
            hands_task(n_changes, random.Random(0), thinking=True)
    kinds = {task.kind for task in hands_tasks(50, range(2, 4), 0, thinking=True)}
    assert kinds == {"2", "3"}


def test_a_missing_study_says_how_to_make_it():
    with pytest.raises(ValueError, match="studies no-such-study"):
        load_study("no-such-study")
    with pytest.raises(SystemExit):
        main(["no-such-study"])


def test_the_card_has_a_row_a_measure(capsys):
    rows = [
        {"model": model, "right": {"holder": 0.5}, "right at 0.2": {"holder": 0.5 + seed / 10}}
        | {"loss on stories": 0.5, "kl": 0.0, "entropy": 1.0, "length": 9.0}
        for model in ("base", "SFT", "DPO", "GRPO")
        for seed in range(1 if model == "base" else 3)
    ]
    figures.print_card(rows)
    assert '"holder", T = 0.2  0.50' in " ".join(
        capsys.readouterr().out.split("\n")[2].split("   ")
    )
    figures.draw_card(rows)
    assert len(plt.gcf().axes[0].patches) == 4
    plt.close("all")
