"""Gemma 2's dialogue format (Tables 4 and 5 of the report), in token ids.

    <bos><start_of_turn>user⏎
    Knock knock.<end_of_turn>⏎
    <start_of_turn>model⏎                  up to here shown to the model
    Who's there?<end_of_turn><eos>         produced by it

Unusual: control tokens are put in by id and contents encoded as plain text, so a message cannot
hold a control token. In the history of later turns the model's <eos> is replaced by a newline.
"""

from collections.abc import Mapping, Sequence

from matchbook.gemma.tokenizer import Tokenizer

USER, MODEL = "user", "model"  # Table 4
ROLES = {"user": USER, "assistant": MODEL, "model": MODEL}


def format_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
) -> list[int]:
    """Ids of a conversation, bos first, as the model is shown it.

    Generate from them with `stop_tokens=tokenizer.stop_tokens`.

    Args:
      tokenizer: one whose vocabulary has turns.
      messages: `{"role": ..., "content": ...}` each; roles "user" and "assistant" (or "model")
        alternate and the user begins. Space around a content is dropped.
      add_generation_prompt: end with the opening of the model's turn; the last message is then the
        user's. Without it, the conversation alone.

    Raises:
      ValueError: no messages, other keys or roles (there is no system role), or roles out of turn.
    """
    roles = _check(messages)
    if add_generation_prompt and roles[-1] == MODEL:
        raise ValueError(
            "messages: expected the last to be the user's, as the model's turn follows, got one of "
            "the model; for the conversation alone pass add_generation_prompt=False"
        )
    ids = [tokenizer.bos]
    for role, message in zip(roles, messages):
        ids += [*_opened(tokenizer, role, message["content"]), tokenizer.end_of_turn]
        ids += tokenizer.encode("\n")
    if add_generation_prompt:
        ids += _opened(tokenizer, MODEL, "")
    return ids


def training_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]
) -> tuple[list[int], list[bool]]:
    """A conversation whose last answer is to be learned: its ids, and which of them are the answer.

    The answer is what Table 5 has the model produce: the content, end of turn, end of sequence.
    Earlier answers are history, without their eos; to learn them too, make an example of each.

    Returns:
      (ids, answer_mask): of one length; the mask marks answers themselves, not what predicts them.

    Raises:
      ValueError: as `format_chat`, or the last message is not the model's.
    """
    if _check(messages)[-1] != MODEL:
        raise ValueError("messages: expected the last to be the model's answer, got the user's")
    shown = format_chat(tokenizer, messages[:-1])
    opening = len(_opened(tokenizer, MODEL, ""))
    answer = _opened(tokenizer, MODEL, messages[-1]["content"])[opening:]
    answer += [tokenizer.end_of_turn, tokenizer.eos]
    return shown + answer, [False] * len(shown) + [True] * len(answer)


def _opened(tokenizer: Tokenizer, role: str, content: str) -> list[int]:
    """A turn that is not ended."""
    return [
        tokenizer.start_of_turn,
        *tokenizer.encode(f"{role}\n"),
        *tokenizer.encode(content.strip()),
    ]


def _check(messages: Sequence[Mapping[str, str]]) -> list[str]:
    """The role of each message, as the tokens have it."""
    if not messages:
        raise ValueError("messages: expected at least one, got none")
    roles = []
    for place, message in enumerate(messages):
        where = f"messages[{place}]"
        if message.keys() != {"role", "content"} or not isinstance(message["content"], str):
            raise ValueError(f"{where}: expected a role and a text as content, got {message!r}")
        if message["role"] == "system":
            raise ValueError(
                f"{where}: Gemma 2 was trained without a system role; put the instruction at the "
                "beginning of the first user message"
            )
        if message["role"] not in ROLES:
            raise ValueError(f"{where}: expected role {list(ROLES)}, got {message['role']!r}")
        role = ROLES[message["role"]]
        if role != (expected := (USER, MODEL)[place % 2]):
            raise ValueError(
                f"{where}: expected the {expected}'s turn, got one of the {role}: "
                "turns alternate and the user begins"
            )
        roles.append(role)
    return roles
