"""Near-duplicates among traces, and requests that repeat an exam request."""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dedup import (
    SHINGLE,
    Exam,
    calls_of,
    grams,
    named_values,
    near_duplicates,
    particulars,
    sketch,
)
from schemas.files import dumps, read_jsonl
from schemas.recipe_teacher import Filter
from teacher.domain.pack import load
from teacher.domain.tasks import sample
from teacher.scenes.images import ImageStore, task_images

REQUEST = (
    "Please look at contract {id} with {firm} and tell me by which date we have to give notice if we"
    " do not want it to renew, taking into account every amendment that has been signed since then"
)
LONG = " ".join([REQUEST, "and", *["explain each step of the reckoning in plain words"] * 20])


def find_near(texts, threshold, calls=None):
    sketches = [
        sketch(text, own) for text, own in zip(texts, calls or [()] * len(texts), strict=True)
    ]
    return near_duplicates(sketches, threshold)


def find_contaminated(texts, exam, threshold, names=None):
    requests = Exam(exam, threshold, names)
    return [requests.find(text) for text in texts]


def ask(contract="C-1001", firm="Harrow Vane", text=REQUEST):
    return text.format(id=contract, firm=firm)


@pytest.mark.parametrize("text", [REQUEST, LONG], ids=["short", "long"])
def test_one_template_about_two_things_makes_two_requests(text):
    texts = [ask(text=text), ask("C-1002", text=text), ask(firm="Quill Marsh", text=text)]
    assert find_near(texts, 0.9) == [None, None, None]
    assert find_contaminated(texts[:1], texts[1:], 0.8) == [None]


def test_the_same_words_again_are_a_duplicate_of_the_first():
    texts = [ask(), "Something else entirely?", ask(), ask() + " please", ask()]
    assert find_near(texts, 0.9) == [None, None, 0, 0, 0]


def test_the_threshold_decides_how_much_may_differ():
    other = ask().replace("tell me", "say").replace("taking into account", "with")
    assert find_near([ask(), other], 0.9) == [None, None]
    assert find_near([ask(), other], 0.5) == [None, 0]
    assert find_near([ask(), ask() + " please"], 1.0) == [None, None]
    assert find_near([ask(), ask()], 1.0) == [None, 0]


def test_a_text_that_repeats_only_a_near_duplicate_is_kept():
    start = "a b c d e f g h i j"
    near, far = "a b c d e f g h i j k l", "a b c d e f g h i j k l m n"
    assert find_near([start, near, far], 0.8) == [None, 0, None]
    assert find_near([near, far], 0.8) == [None, 0]


def test_texts_without_words_match_nothing():
    assert find_near(["", "", "a"], 0.9) == [None, None, None]
    assert find_contaminated(["", "a"], ["", "b"], 0.5) == [None, None]


def test_particulars_are_names_and_numbers_and_not_the_first_word_of_a_sentence():
    text = "What ends first? The lease C-7 of Harrow & Vane, on 2026-03-02. Please say. Quill Marsh asks."
    assert particulars(text) == {"C", "7", "Harrow", "Vane", "2026", "03", "02", "Quill", "Marsh"}


@pytest.mark.parametrize(
    "leak",
    [
        ask(),
        ask() + ", please",
        ask().replace("tell me", "say"),
        "A colleague asked me this and I could not answer: "
        + ask()
        + " Many thanks for your help!",
    ],
)
def test_an_exam_request_is_detected_where_it_is_slightly_reworded_or_quoted(leak):
    assert find_contaminated([leak], ["What else?", ask()], 0.7) == [1]


def test_another_question_about_the_same_contract_is_no_contamination():
    other = "Who signed contract C-1001 with Harrow Vane, and may they sign alone?"
    assert find_contaminated([other], [ask()], 0.7) == [None]


def test_traces_with_other_calls_are_no_near_duplicates_however_they_write_their_arguments():
    def trace(arguments, answer):
        call = {"id": "a", "function": {"name": "get", "arguments": arguments}}
        return [
            {"role": "user", "content": "When?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "{}"},
            {"role": "assistant", "content": answer},
        ]

    one = calls_of(trace('{"id": "C-1", "n": 2}', "In May."))
    assert one == calls_of(trace('{"n":2,"id":"C-1"}', "It ends in May."))
    assert one == calls_of(trace({"id": "C-1", "n": 2}, "May."))
    other = calls_of(trace('{"id": "C-1", "n": 3}', "In May."))
    assert find_near([ask()] * 4, 0.7, [one, other, one, frozenset()]) == [
        None,
        None,
        0,
        None,
    ]


def jaccard(one, other):
    return len(one & other) / len(one | other)


word_lists = st.lists(st.sampled_from("abcdefgh"), max_size=12).map(" ".join)


@given(st.lists(word_lists, max_size=12), st.sampled_from([0.3, 0.5, 0.7, 0.9, 1.0]))
def test_no_pair_is_missed_that_comparing_all_would_find(texts, threshold):
    sets = [grams(text, SHINGLE) for text in texts]
    expected: list[int | None] = []
    for index, one in enumerate(sets):
        alike = [
            other
            for other in range(index)
            if expected[other] is None and one and jaccard(one, sets[other]) >= threshold - 1e-9
        ]
        expected.append(min(alike, default=None))
    assert find_near(texts, threshold) == expected


def test_thousands_of_templated_requests_take_seconds():
    rng = random.Random(0)
    texts = [ask(f"C-{rng.randrange(3000)}") for _ in range(5000)]
    matches = find_near(texts, 0.9)
    assert matches.count(None) == len(set(texts))


@pytest.mark.parametrize(
    ("one", "two", "other"),
    [
        (
            "请告诉我合同C-1042的终止日期以及在此之前必须提前多少天发出通知",
            "麻烦告诉我合同C-1042的终止日期以及在此之前必须提前多少天发出通知",
            "请列出合同C-1042的全部附件并说明每一份附件由谁签署",
        ),
        (
            "契約C-7の終了日と更新しない場合の通知期限を台帳で調べて教えてください",
            "契約C-7の終了日と更新しない場合の通知期限を台帳で調べて教えて下さい",
            "契約C-7に署名した人の名前と役職をすべて一覧にしてください",
        ),
        (
            "กรุณาบอกวันสิ้นสุดของสัญญาC-7และระยะเวลาแจ้งล่วงหน้าที่ใช้บังคับ",
            "ช่วยบอกวันสิ้นสุดของสัญญาC-7และระยะเวลาแจ้งล่วงหน้าที่ใช้บังคับ",
            "ใครเป็นผู้ลงนามในสัญญาC-7และมีอำนาจลงนามคนเดียวหรือไม่",
        ),
    ],
    ids=["zh", "ja", "th"],
)
def test_text_without_spaces_is_compared_by_characters(one, two, other):
    assert find_near([one, two, other], 0.75) == [None, 0, None]
    assert find_contaminated([two, other], [one], 0.75) == [0, None]
    assert find_contaminated([two.replace("C-", "D-")], [one], 0.75) == [None]


PAIRS = list(read_jsonl(Path(__file__).with_name("near_duplicates.jsonl")))
THRESHOLDS = Filter()
# Of one language too many words differ in these: they are known to be missed.
MISSED = (
    "契約C-1042の終了日と更新しない場合の通知期限について",
    "When does contract C-1042 end and how many",
    "请您告诉我",
)


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{n}-{p['language']}" for n, p in enumerate(PAIRS)])
def test_the_default_thresholds_tell_a_reworded_request_from_another_task(pair):
    one, two = pair["one"], pair["two"]
    values = pair.get("values", ["same", "same"])
    is_found = pair["same"] and not two.startswith(MISSED)
    for texts in ([one, two], [two, one]):
        matches = find_near(texts, THRESHOLDS.near_duplicate, [(value,) for value in values])
        assert matches == [None, 0 if is_found else None]
    if not set(values) & {
        "insurance_certificate",
        "notice_period",
    }:  # only their calls tell them apart
        names = [named_values(one, values)]
        matches = find_contaminated([two], [one], THRESHOLDS.contamination, names)
        assert matches == [0 if is_found else None]


def test_signs_count_and_marks_of_a_sentence_do_not():
    code = "Is the loop while index {sign} limit of src/queue.py right, and what does it do at the end?"
    less, at_most = code.format(sign="<"), code.format(sign="<=")
    assert grams(less, SHINGLE) != grams(at_most, SHINGLE)
    assert grams("Well, is it so?", SHINGLE) == grams("well is it 'so'", SHINGLE)


def test_the_tasks_of_a_pack_are_no_near_duplicates_of_each_other(tmp_path):
    domain = load("legal")
    store = ImageStore(tmp_path)
    tasks = sample(domain, "train", 60, seed=0, pixels=False, image_store=store)
    texts = [" ".join([task["request"], *task_images(task)]) for task in tasks]
    calls = [(dumps(task["plan"]),) for task in tasks]
    assert find_near(texts, THRESHOLDS.near_duplicate, calls) == [None] * len(texts)
