"""Every form in which preference data is written, as a small source: the tests read them, and the table in the docs lists them.

``python -m tests.unit.pairs.forms`` writes the table into docs/formats.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparserm.pairs.parsing import parse_pairs
from sparserm.pairs.rows import WHOLE_ROW
from sparserm.types import Message

Q, GOOD, BAD = "Why is the sky blue?", "Air scatters blue light most.", "Because it likes to be."
DOCS = Path(__file__).parents[3] / "docs" / "formats.md"
BEGIN, END = "<!-- forms -->", "<!-- end of forms -->"

_ASKED = {"role": "user", "content": Q}
_ANSWER, _OTHER = ({"role": "assistant", "content": text} for text in (GOOD, BAD))
_HUMAN = {"from": "human", "value": Q}
_SAID, _SAID_BADLY = ({"from": "gpt", "value": text} for text in (GOOD, BAD))
_NOVA = [
    {"role": "user", "content": [{"text": Q}]},
    {
        "role": "assistant",
        "candidates": [
            {"content": [{"text": text}], "preferenceLabel": label}
            for text, label in ((BAD, "non-preferred"), (GOOD, "preferred"))
        ],
    },
]
_SELECTED = {"type": "pairwise", "value": {"selected": "left"}}
_TRANSCRIPT = f"\n\nHuman: {Q}\n\nAssistant: "


@dataclass(frozen=True)
class Form:
    """One form, with rows that give the one pair of ``Q`` with ``GOOD`` over ``BAD``.

    Attributes:
        by: who writes it: libraries and data sets.
        rows: mostly one; forms with one response in a row need two.
        system: the system message that the prompt begins with.
        what: how it is read, where the reader has nothing to say because the names say it.
    """

    by: str
    rows: tuple[dict[str, Any], ...]
    system: str = ""
    what: str = ""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The prompt that is meant."""
        return (*((Message("system", self.system),) if self.system else ()), Message("user", Q))

    @property
    def reading(self) -> str:
        """How the reader says it was read; empty if it has nothing to say."""
        said = [issue.problem for issue in parse_pairs(self.rows).issues if issue.column == WHOLE_ROW]
        return "; ".join(one.removeprefix("read ") for one in said)


def _one(by: str, what: str = "", system: str = "", /, **row: Any) -> Form:
    return Form(by, (row,), system, what)


FORMS = (
    _one("TRL, explicit prompt", "as named", prompt=Q, chosen=GOOD, rejected=BAD),
    _one("TRL, conversational", "as named", prompt=[_ASKED], chosen=[_ANSWER], rejected=[_OTHER]),
    _one("TRL, implicit prompt", "the common messages are the prompt", chosen=[_ASKED, _ANSWER], rejected=[_ASKED, _OTHER]),
    _one(
        "UltraFeedback binarized, Tulu",
        "as named; the messages repeat the prompt",
        prompt=Q,
        chosen=[_ASKED, _ANSWER],
        rejected=[_ASKED, _OTHER],
    ),
    _one("HH-RLHF", "transcripts with Human and Assistant", chosen=_TRANSCRIPT + GOOD, rejected=_TRANSCRIPT + BAD),
    _one("LLaMA-Factory, ShareGPT", "as named", conversations=[_HUMAN], chosen=_SAID, rejected=_SAID_BADLY),
    _one("LLaMA-Factory, Alpaca", instruction=Q, input="", chosen=GOOD, rejected=BAD),
    _one("LLaMA-Factory, Alpaca until 2024", instruction=Q, input="", output=[GOOD, BAD]),
    _one("axolotl, Intel's Orca pairs", "", "Be brief.", system="Be brief.", question=Q, chosen=GOOD, rejected=BAD),
    _one("axolotl, ICR", input=Q, chosen=GOOD, rejected=BAD),
    _one("axolotl, chat template", messages=[_ASKED], chosen=_ANSWER, rejected=_OTHER),
    _one("OpenRLHF", context_messages=[_ASKED], chosen=[_ANSWER], rejected=[_OTHER]),
    _one("your own names, beside ours", user_prompt=Q, chosen=GOOD, rejected=BAD),
    _one("UltraInteract", trajectory=Q, chosen=GOOD, rejected=BAD),
    _one("ms-swift", messages=[_ASKED, _ANSWER], rejected_response=BAD),
    _one("ms-swift, whole conversations", messages=[_ASKED, _ANSWER], rejected_messages=[_ASKED, _OTHER]),
    _one("OpenAI", input={"messages": [_ASKED], "tools": []}, preferred_output=[_ANSWER], non_preferred_output=[_OTHER]),
    _one("NeMo RL", context=[_ASKED], completions=[{"rank": 1, "completion": [_OTHER]}, {"rank": 0, "completion": [_ANSWER]}]),
    _one("distilabel", instruction=Q, generations=[BAD, GOOD], ratings=[2, 5]),
    _one(
        "Argilla, records",
        "",
        instruction=Q,
        response1=GOOD,
        response2=BAD,
        **{"preference.responses": ["response1", "response2", "response1"]},
    ),
    _one("Argilla, pairs", instruction=Q, chosen_response=GOOD, rejected_response=BAD, chosen_model="a", rejected_model="b"),
    _one("stack-exchange-paired", question=Q, response_j=GOOD, response_k=BAD),
    _one("papers on DPO", prompt=Q, y_w=GOOD, y_l=BAD),
    _one("best-of-N samples", prompt=Q, responses=[BAD, GOOD], scores=[0.1, 2.5]),
    _one("best-of-N samples", prompt=Q, responses=[BAD, GOOD], rewards=[0.1, 2.5]),
    _one("SHP", history=Q, human_ref_A=BAD, human_ref_B=GOOD, labels=0),
    _one("PKU-SafeRLHF", prompt=Q, response_0=BAD, response_1=GOOD, better_response_id=1, safer_response_id=0),
    _one("PKU-SafeRLHF, safety alone", prompt=Q, response_0=GOOD, response_1=BAD, safer_response_id=0),
    _one("WIMHF", prompt=Q, response_A=BAD, response_B=GOOD, label=0),
    _one("JudgeBench", question=Q, response_A=GOOD, response_B=BAD, label="A>B"),
    _one("Chatbot Arena", conversation_a=[_ASKED, _OTHER], conversation_b=[_ASKED, _ANSWER], winner="model_b"),
    _one(
        "Chatbot Arena on Kaggle", prompt=Q, response_a=GOOD, response_b=BAD, winner_model_a=1, winner_model_b=0, winner_tie=0
    ),
    _one("verdicts in words", prompt=Q, response_a=GOOD, response_b=BAD, winner="response_a"),
    _one("verdicts in words", prompt=Q, response_A=BAD, response_B=GOOD, preference="B"),
    _one("LLMBar, OffsetBias", input=Q, output_1=BAD, output_2=GOOD, label=2),
    _one("HelpSteer 2", prompt=Q, response_1=GOOD, response_2=BAD, preference_strength=-2),
    _one("HelpSteer 3", context=[_ASKED], response1=BAD, response2=GOOD, overall_preference=3),
    _one(
        "UltraFeedback",
        instruction=Q,
        completions=[{"response": BAD, "overall_score": 2}, {"response": GOOD, "overall_score": 8}],
    ),
    _one("Nectar", prompt=Q, answers=[{"answer": BAD, "rank": 4}, {"answer": GOOD, "rank": 1}]),
    _one("summarize-from-feedback", info={"post": Q}, summaries=[{"text": BAD}, {"text": GOOD}], choice=1),
    _one("OpenAI, WebGPT", "", question={"full_text": Q, "id": "1"}, answer_0=GOOD, answer_1=BAD, score_0=0.5, score_1=-0.5),
    _one(
        "Amazon Nova",
        "",
        "Be brief.",
        schemaVersion="bedrock-conversation-2024",
        system=[{"text": "Be brief."}],
        messages=_NOVA,
    ),
    _one(
        "Vertex AI, Gemini",
        "",
        "Be brief.",
        system_instruction={"parts": [{"text": "Be brief."}]},
        contents=[{"role": "user", "parts": [{"text": Q}]}],
        completions=[
            {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
            for text, score in ((BAD, 0), (GOOD, 1))
        ],
    ),
    _one("Vertex AI, PaLM", input_text=Q, candidate_0=BAD, candidate_1=GOOD, choice=1),
    _one("Label Studio", data={"prompt": Q, "answer1": GOOD, "answer2": BAD}, annotations=[{"result": [_SELECTED]}]),
    _one("Label Studio, short", prompt=Q, answer1=BAD, answer2=GOOD, comparison="right"),
    _one("a table with titles", **{"Prompt": Q, "Response A": BAD, "Response B": GOOD, "Winner": "Response B"}),
    _one("Step-DPO", prompt=Q, initial_reason_steps="", chosen=GOOD, rejected=BAD, full_chosen=GOOD, full_rejected=BAD),
    _one("TruthfulQA, CSV", **{"Question": Q, "Best Answer": GOOD, "Correct Answers": GOOD, "Incorrect Answers": f"{BAD};"}),
    _one("TruthfulQA, choices", question=Q, mc1_targets={}, mc2_targets={"choices": [BAD, GOOD], "labels": [0, 1]}),
    _one("conversations in lists of texts", chosen=[Q, GOOD], rejected=[Q, BAD]),
    _one("RewardBench 2, RM-Bench", "every chosen response with every rejected one", prompt=Q, chosen=[GOOD], rejected=[BAD]),
    _one("your own names", question=Q, good_answer=GOOD, bad_answer=BAD),
    _one("a text and a question about it", "", context="", question=Q, answer_good=GOOD, answer_bad=BAD),
    Form("TRL, KTO", tuple({"prompt": Q, "completion": text, "label": text == GOOD} for text in (GOOD, BAD))),
    Form("ms-swift, KTO", tuple({"messages": [_ASKED, turn], "label": turn == _ANSWER} for turn in (_ANSWER, _OTHER))),
    Form(
        "LLaMA-Factory, KTO",
        tuple({"conversations": [_HUMAN, turn], "kto_tag": turn == _SAID} for turn in (_SAID, _SAID_BADLY)),
    ),
    Form(
        "HelpSteer",
        tuple(
            {"prompt": Q, "response": text, "helpfulness": 4 * (text == GOOD), "correctness": 3, "coherence": 3}
            for text in (GOOD, BAD)
        ),
    ),
)


def table() -> str:
    """The forms as a Markdown table."""
    lines = ["| written by | with the columns | read as |", "|---|---|---|"]
    for form in FORMS:
        columns = ", ".join(f"`{name}`" for name in form.rows[0])
        lines.append(f"| {form.by} | {columns} | {form.reading or form.what} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table into the docs."""
    text = DOCS.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCS.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}")


if __name__ == "__main__":
    main()
