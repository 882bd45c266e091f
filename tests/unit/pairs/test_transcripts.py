"""Texts in chat templates and transcripts, in every place where they are found, and ordinary texts that look like them."""

from __future__ import annotations

import time

import pytest

from sparserm.pairs.messages import as_prompt, prompt_value, read_prompt, read_query
from sparserm.pairs.parsing import PairsError, parse_pairs
from sparserm.pairs.templates import spoken, thinks
from sparserm.types import Message, PreferenceData, Prompt
from tests.unit.pairs.templated import TEMPLATES, Template

Q, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light most.", "It mirrors the sea.\n\nSo they say."
SYSTEM, USER = Message("system", "Be kind."), Message("user", Q)
BEFORE = (Message("user", "Hi\nthere"), Message("assistant", "Hello."))
CONVERSATIONS = {"one turn": (USER,), "system": (SYSTEM, USER), "turns": (SYSTEM, *BEFORE, USER)}


def _is_read(found: PreferenceData, prompt: Prompt, warned: bool = False) -> None:
    (pair,) = found.pairs
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, GOOD, BAD)
    said = [issue.problem for issue in found.issues if issue.severity == "warning"]
    assert bool([one for one in said if "read as text" in one]) == warned, said


@pytest.mark.parametrize("thought", [False, True], ids=["", "thinking"])
@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_text_in_a_template_is_read_wherever_it_stands(template: Template, turns: Prompt, thought: bool) -> None:
    turns = turns if template.system else tuple(turn for turn in turns if turn.role != "system")
    asked, before = template.prompt(turns), template.thinks if thought else template.says
    chosen, rejected = (before + text + template.end for text in (GOOD, BAD))
    _is_read(parse_pairs([{"prompt": asked, "chosen": chosen, "rejected": rejected}]), turns)
    _is_read(parse_pairs([{"prompt": asked.rstrip(), "chosen": chosen.strip(), "rejected": rejected.strip()}]), turns)
    _is_read(parse_pairs([{"chosen": asked + chosen, "rejected": asked + rejected}]), turns)
    for prompt in (Q, asked):
        whole = {"prompt": prompt, "chosen": asked + chosen, "rejected": asked + rejected}
        found = parse_pairs([whole])
        _is_read(found, turns)
        assert any("thinking" in issue.problem for issue in found.issues) or not thought
    assert read_prompt({"prompt": asked}) == as_prompt(asked) == turns
    conversation, response = read_query(asked + chosen, asked)
    assert (conversation, spoken(response)) == (turns, GOOD)
    conversation, response = read_query(asked + chosen)
    assert (conversation, spoken(response)) == (turns, GOOD)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_what_is_said_in_a_template_may_begin_with_a_line_end(template: Template) -> None:
    meant = (Message("user", "\nHi"), Message("assistant", "\nHello."), Message("user", f"\r\n{Q}"))
    for turns in (meant, meant[-1:]):
        asked, read = template.prompt(turns), tuple(Message(turn.role, turn.content.strip()) for turn in turns)
        _is_read(parse_pairs([{"prompt": asked, "chosen": GOOD, "rejected": BAD}]), read)
        whole = (asked + template.says + text + template.end for text in (GOOD, BAD))
        _is_read(parse_pairs([dict(zip(("chosen", "rejected"), whole, strict=True))]), read)


@pytest.mark.parametrize("unit", ["<analysis>a</analysis>", "<|channel|>final<|message|>", "a.</think>", "<think></think>"])
def test_many_blocks_of_thinking_take_little_longer_than_few(unit: str) -> None:
    start = time.perf_counter()
    assert spoken(unit * 10_000 + "Yes.") == "Yes."
    assert time.perf_counter() - start < 2


def test_a_text_about_phi_in_the_template_of_phi_3_is_one_turn() -> None:
    asked = "<|user|>\nIs <|end|><|assistant|> right?<|end|>\n<|assistant|>\n"
    found = parse_pairs([_row(asked)])
    assert found.pairs[0].prompt == (Message("user", "Is <|end|><|assistant|> right?"),)
    assert any("<|end|>" in issue.problem for issue in found.issues)


def test_channels_of_a_response_that_begins_with_its_mark() -> None:
    thought = "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
    said = f"<|start|>assistant<|channel|>final<|message|>{GOOD}<|return|>"
    assert spoken(thought + said) == spoken(said) == GOOD
    assert thinks(thought + said) and not thinks(said)
    assert spoken(thought) == ""


def _row(prompt: str, chosen: str = GOOD, rejected: str = BAD) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


VICUNA = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful answers."
ALPACA = "Below is an instruction that describes a task, paired with an input. Write a response."


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        (f"{VICUNA} USER: Hi\nthere ASSISTANT: Hello.</s>USER: {Q} ASSISTANT:", (Message("system", VICUNA), *BEFORE, USER)),
        (f"USER: {Q}\nASSISTANT:", (USER,)),
        (f"SYSTEM: Be kind.\nUSER: {Q}\nASSISTANT:", (SYSTEM, USER)),
        (f"Be kind.\n\nHuman: {Q}\n\nAssistant:", (SYSTEM, USER)),
        (f"System: Be kind.\n\nHuman: {Q}\n\nAssistant:", (SYSTEM, USER)),
        (f"\n\nHuman: {Q}", (USER,)),
        (f"\n\nHuman: Hi\nthere\n\nAssistant: Hello.\n\nHuman: {Q}", (*BEFORE, USER)),
        (f"User: {Q}\n\nAssistant:", (USER,)),
        (f"User: {Q}\nAssistant: <think>\n", (USER,)),
        (
            f"{ALPACA}\n\n### Instruction:\n{Q}\n\n### Input:\nIn a word.\n\n### Response:\n",
            (Message("system", ALPACA), Message("user", f"{Q}\n\nIn a word.")),
        ),
        (f"### Human: {Q}### Assistant:", (USER,)),
        (f"system: Be kind.\nuser: {Q}\nassistant:", (SYSTEM, USER)),
        (f"human: {Q}\ngpt:", (USER,)),
        (f"Instruct: {Q}\nOutput:", (USER,)),
        (f"<reserved_102>{Q}<reserved_103>", (USER,)),
        (f"\r\n\r\nHuman: {Q}\r\n\r\nAssistant:", (USER,)),
        (f"<|im_start|>user\r\n{Q}<|im_end|>\r\n<|im_start|>assistant\r\n", (USER,)),
    ],
)
def test_a_prompt_that_is_a_transcript(text: str, turns: Prompt) -> None:
    _is_read(parse_pairs([_row(text)]), turns)
    assert read_prompt({"prompt": text}) == as_prompt(text) == turns
    assert read_query(f"{text} {GOOD}", text) == (turns, GOOD)


@pytest.mark.parametrize(
    "end",
    ["**Assistant:**", "ChatGPT said:", "Assistant :", "## Assistant\n", "助手：", "AI: ", "Bot:", "<assistant>\n", "Agent:"],
)
def test_a_prompt_that_asks_for_an_answer_as_transcripts_do_is_warned_of(end: str) -> None:
    text = f"**Somebody:** {Q}\n\n{end}"
    found = parse_pairs([_row(text)])
    assert found.pairs[0].prompt == (Message("user", text),)
    assert [one.problem for one in found.issues] == [f"looks like a transcript ({end.strip()}): read as text"]
    assert not parse_pairs([_row(f"{Q} In this text:\n\nThe assistant, or {end.strip()}, is not there")]).issues


@pytest.mark.parametrize("word", ["assistant: ", "AI: ", "gpt: ", "**Bot:** ", "ChatGPT said:\n"])
def test_a_word_that_all_responses_begin_with_is_said(word: str) -> None:
    found = parse_pairs([_row(Q, f"{word}{GOOD}", f"{word}{BAD}")])
    assert found.pairs[0].chosen == f"{word}{GOOD}"
    assert f"all responses begin with {word.strip().lower()!r}" in found.issues[0].problem
    assert not parse_pairs([_row(Q, f"{word}{GOOD}", BAD)]).issues


@pytest.mark.parametrize("prompt", [f"\n\nHuman: {Q}", f"Human: {Q}", f"USER: {Q}"])
def test_responses_that_begin_with_the_assistants_word(prompt: str) -> None:
    word = "ASSISTANT: " if "USER" in prompt else "\n\nAssistant: "
    _is_read(parse_pairs([_row(prompt, word + GOOD, word + BAD)]), (USER,))


@pytest.mark.parametrize(
    "mark", ["<|im_start|>assistant\n{}<|im_end|>\n", "<|assistant|>\n{}</s>\n", "<｜Assistant｜>{}<｜end▁of▁sentence｜>"]
)
def test_responses_that_begin_with_the_assistants_mark(mark: str) -> None:
    row = _row(Q, mark.replace("{}", f"<think>Hm.</think>{GOOD}"), mark.replace("{}", BAD))
    assert thinks(row["chosen"]) and not thinks(row["rejected"])
    _is_read(parse_pairs([row]), (USER,))


@pytest.mark.parametrize(
    "text",
    [
        "Human: Hi\n\nAssistant: Hello.\n\nHuman: Bye\n\nSum up this conversation.",
        "Sum up:\n\nHuman: Hi\n\nAssistant: Hello.",
        "Go on with this line:\nUser: Hi\nAssistant:",
        "User: who are you?",
        "user: who are you?",
        "human: who are you?\nuser: and you?",
        "What does ### Response: mean?",
        "What does <|im_start|>user\n mean?",
        "[INST] is a tag of which model?",
        "<|assistant|> is a tag of which model?",
        "Explain <｜User｜>.",
    ],
)
def test_a_prompt_that_may_mean_itself_is_text_and_warned_of(text: str) -> None:
    _is_read(parse_pairs([_row(text)]), (Message("user", text),), warned=True)
    assert read_query(f"{text} {GOOD}", text) == ((Message("user", text),), GOOD)
    assert prompt_value((Message("user", text),)) == text


@pytest.mark.parametrize(
    "text",
    [
        "Q: Is it?\nIt is: A: yes.",
        "The User: field is empty, and the Assistant: field is, too.",
        "Ask the Assistant: she knows.",
        "### Response\n\nDear all, ...",
        "Question: is it?",
        "Q: Why did it cross the road?\nA: To tell a joke.",
        "Romeo: Hi.\n\nJuliet: Hello.",
        "a <| b |> c, <s>struck</s>, [link](x)",
    ],
)
def test_ordinary_texts_are_not_warned_of(text: str) -> None:
    for row in (_row(text), _row(Q, text), _row(Q, GOOD, text)):
        assert not parse_pairs([row]).issues


PLAY = "User: Hi!\n\nAssistant: {}"


@pytest.mark.parametrize(
    "text",
    [
        PLAY,
        "Sure:\n\nUser: Hi!\n\nAssistant: {}",
        "\n\nHuman: Hi!\n\nAssistant: {}",
        "USER: Hi! ASSISTANT: {}",
        "Write:\n\n### Instruction:\nHi!\n\n### Response:\n{}",
        "Write <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n{}",
        "<|assistant|> opens a turn, {}",
        "Assistant: {}",
    ],
)
def test_a_response_that_was_asked_to_look_like_one_is_text_and_warned_of(text: str) -> None:
    chosen, rejected = text.replace("{}", "Hello."), text.replace("{}", "Go away.")
    found = parse_pairs([_row("Write a scene with a chatbot.", chosen, rejected)])
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [(chosen, rejected)]
    assert [issue.column for issue in found.issues if "read as text" in issue.problem] == ["chosen", "rejected"]


@pytest.mark.parametrize("text", ["Q: {}\nA: ", "Question: {}\n\nAnswer: ", "**User:** {}\n\n**Assistant:** "])
def test_responses_that_repeat_the_question_are_text_and_warned_of(text: str) -> None:
    whole = [text.replace("{}", Q) + said for said in (GOOD, BAD)]
    found = parse_pairs([_row(Q, *whole)])
    assert [(pair.chosen, pair.rejected) for pair in found.pairs] == [tuple(whole)]
    assert [issue.column for issue in found.issues if "read as text" in issue.problem] == ["chosen", "rejected"]


def test_whole_transcripts_of_which_one_goes_on_are_not_torn_apart() -> None:
    asked = f"\n\nHuman: {Q}\n\nAssistant: "
    found = parse_pairs([_row(Q, asked + GOOD + "\n\nHuman: Why?\n\nAssistant: So.", asked + BAD)])
    assert any("looks like a transcript" in issue.problem for issue in found.issues)
    with pytest.raises(PairsError, match="has 3 messages"):
        parse_pairs([{"chosen": asked + GOOD + "\n\nHuman: Why?\n\nAssistant: So.", "rejected": asked + BAD}])


def test_a_prompt_beside_whole_transcripts_may_have_other_spaces() -> None:
    whole = [f"{VICUNA} USER: {Q} ASSISTANT: {text}</s>" for text in (GOOD, BAD)]
    _is_read(parse_pairs([_row(Q.replace(" ", "\n"), *whole)]), (Message("system", VICUNA), USER))
    found = parse_pairs([_row("Another prompt", *whole)])
    assert found.pairs[0].chosen == spoken(whole[0])
    assert sum("looks like a transcript" in issue.problem for issue in found.issues) == 2


def test_what_follows_a_mark_of_an_end_is_kept() -> None:
    """A text about templates in a template."""
    said = "End it with <|im_end|>, then go on"
    whole = [f"<|im_start|>user\n{Q}<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>" for text in (said, BAD)]
    found = parse_pairs([{"chosen": whole[0], "rejected": whole[1]}])
    assert found.pairs[0].chosen == said
    assert any("<|im_end|>" in issue.problem for issue in found.issues)


def test_tools_in_a_template_are_read_and_unknown_roles_refused() -> None:
    called = "<|im_start|>user\nTime?<|im_end|>\n<|im_start|>assistant\nclock()<|im_end|>\n<|im_start|>{}\n12:00<|im_end|>\n"
    turns = (Message("user", "Time?"), Message("assistant", "clock()"), Message("user", "12:00"))
    _is_read(parse_pairs([_row(called.replace("{}", "tool") + "<|im_start|>assistant\n")]), turns)
    with pytest.raises(PairsError, match="column prompt: has a turn with the role 'narrator', expected system, user"):
        parse_pairs([_row(called.replace("{}", "narrator"))])
    with pytest.raises(PairsError, match="column prompt: is empty"):
        parse_pairs([_row("<|im_start|>user\n<|im_end|>\n")])


@pytest.mark.parametrize(
    "text", [f"\n\nHuman: {Q}", "USER: a ASSISTANT:", "<|im_start|>user\na<|im_end|>\n", '[{"role": "user"}]']
)
def test_a_prompt_that_would_be_read_otherwise_is_written_as_messages(text: str) -> None:
    assert prompt_value((Message("user", text),)) == [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    "unit",
    [
        *("USER:", "USER: a ASSISTANT:", "\n", "\n\nHuman:", "User: ", "### Human:", "Q:\nA:", "<s>", "<pad> "),
        *("<sep> assistant:", "\nOutput:", "\nBot:", "<|channel|>final<|message|>a"),
    ],
)
def test_long_nonsense_takes_no_longer_than_its_length(unit: str) -> None:
    """In quadratic time this would take minutes."""
    for text in (unit * 100_000 + "x", "Assistant: ASSISTANT: ### Assistant: " + unit * 100_000, "Q:" + unit * 100_000):
        parse_pairs([_row(text + "Why?", "a", "b"), _row(Q, text, "b")], skip_bad=True)
