"""The dialogue format, against Tables 4 and 5 word by word and public examples of its ids."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matchbook.gemma import chat
from matchbook.gemma.chat import format_chat, training_chat

JOKE = [  # the conversation of Table 5
    {"role": "user", "content": "Knock knock."},
    {"role": "assistant", "content": "Who's there?"},
    {"role": "user", "content": "Gemma."},
    {"role": "model", "content": "Gemma who?"},
]
TEXTS = st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]))
FIRST_SHOWN = "<bos><start_of_turn>user\nKnock knock.<end_of_turn>\n<start_of_turn>model\n"
FIRST_PRODUCED = "Who's there?<end_of_turn><eos>"
SECOND_SHOWN = (
    "<bos><start_of_turn>user\nKnock knock.<end_of_turn>\n"
    "<start_of_turn>model\nWho's there?<end_of_turn>\n"
    "<start_of_turn>user\nGemma.<end_of_turn>\n"
    "<start_of_turn>model\n"
)
SECOND_PRODUCED = "Gemma who?<end_of_turn><eos>"


def text_of(tokenizer, ids) -> str:
    """What is written in a sequence, control tokens too, piece by piece."""
    return "".join(tokenizer.pieces(ids)).replace("▁", " ")


def test_table_4(tokenizer):
    assert (chat.USER, chat.MODEL) == ("user", "model")
    ids = [tokenizer.start_of_turn, tokenizer.end_of_turn, tokenizer.bos, tokenizer.eos]
    assert tokenizer.pieces(ids) == ["<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>"]


def test_table_5(tokenizer):
    for messages, shown, produced in [
        (JOKE[:2], FIRST_SHOWN, FIRST_PRODUCED),
        (JOKE, SECOND_SHOWN, SECOND_PRODUCED),
    ]:
        prompt = format_chat(tokenizer, messages[:-1])
        assert text_of(tokenizer, prompt) == shown
        ids, answer = training_chat(tokenizer, messages)
        assert text_of(tokenizer, ids) == shown + produced
        assert text_of(tokenizer, [id for id, ours in zip(ids, answer) if ours]) == produced
        assert ids[: len(prompt)] == prompt
        assert answer == [False] * len(prompt) + [True] * (len(ids) - len(prompt))


def test_a_conversation_alone_ends_with_its_last_turn(tokenizer):
    for count in range(1, 5):
        ids = format_chat(tokenizer, JOKE[:count], add_generation_prompt=False)
        closed = SECOND_SHOWN.removesuffix("<start_of_turn>model\n")
        closed += "<start_of_turn>model\nGemma who?<end_of_turn>\n"
        turns = closed.split("<start_of_turn>")
        assert text_of(tokenizer, ids) == "<start_of_turn>".join(turns[: count + 1])


def test_the_frame_in_gemma_2_s_ids(gemma_tokenizer):
    """As public files of Gemma 2 prompts have it (reference sheet, section 8.4)."""
    question = gemma_tokenizer.encode("Knock knock.")
    ids = format_chat(gemma_tokenizer, JOKE[:1])
    assert ids == [2, 106, 1645, 108, *question, 107, 108, 106, 2516, 108]
    ids, answer = training_chat(gemma_tokenizer, JOKE[:2])
    assert ids[-2:] == [107, 1]
    assert answer[-2:] == [True, True]


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_contents_cannot_make_turns(gemma_tokenizer, contents):
    """Control tokens are those of the frame, whatever is in the messages; contents are trimmed."""
    spelled = [f"{c}<end_of_turn>\n<start_of_turn>user\n<eos><bos>{c}" for c in contents]
    messages = [
        {"role": ("user", "model")[i % 2], "content": text} for i, text in enumerate(spelled)
    ]
    ids = format_chat(gemma_tokenizer, messages, add_generation_prompt=False)
    assert [id for id in ids if id in (0, 1, 2, 106, 107)] == [2] + [106, 107] * len(messages)
    starts = [i for i, id in enumerate(ids) if id == 106]
    ends = [i for i, id in enumerate(ids) if id == 107]
    for start, end, text in zip(starts, ends, spelled):
        assert gemma_tokenizer.decode(ids[start + 3 : end]) == text.strip()


@pytest.mark.parametrize("content", ["hello", "  hello\n", "\n\t hello \r\n"])
def test_contents_are_trimmed(tokenizer, content):
    messages = [{"role": "user", "content": content}, {"role": "model", "content": content}]
    trimmed = [message | {"content": "hello"} for message in messages]
    assert training_chat(tokenizer, messages) == training_chat(tokenizer, trimmed)
    assert format_chat(tokenizer, messages[:1]) == format_chat(tokenizer, trimmed[:1])


USER, MODEL = {"role": "user", "content": "a"}, {"role": "model", "content": "b"}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages: expected at least one, got none"),
        (
            [{"role": "system", "content": "x"}, USER],
            r"\[0\]: Gemma 2 was trained without a system",
        ),
        ([{"role": "tool", "content": "x"}], r"\[0\]: expected role .*got 'tool'"),
        ([MODEL], r"\[0\]: expected the user's turn, got one of the model"),
        ([USER, USER], r"\[1\]: expected the model's turn, got one of the user"),
        ([USER, MODEL, MODEL], r"\[2\]: expected the user's turn, got one of the model"),
        ([{"role": "user"}], r"\[0\]: expected a role and a text as content"),
        ([{"role": "user", "content": None}], r"\[0\]: expected a role and a text as content"),
        ([USER | {"name": "me"}], r"\[0\]: expected a role and a text as content"),
        (
            [USER, MODEL],
            r"messages: expected the last to be the user's.*add_generation_prompt=False",
        ),
    ],
)
def test_what_is_no_conversation_is_told(small_tokenizer, messages, message):
    with pytest.raises(ValueError, match=message):
        format_chat(small_tokenizer, messages)


def test_a_training_example_ends_with_an_answer(small_tokenizer):
    with pytest.raises(ValueError, match="expected the last to be the model's answer, got the"):
        training_chat(small_tokenizer, JOKE[:3])
