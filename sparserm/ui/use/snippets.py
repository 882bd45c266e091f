"""Code snippets that use a head; every one of them is run by a test."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template


@dataclass(frozen=True)
class Snippet:
    """A piece of code to copy.

    Attributes:
        title: its purpose, in a few words.
        about: what it does and needs.
        language: ``python`` or ``bash``.
        code: code that runs as it is.
    """

    title: str
    about: str
    language: str
    code: str


_PYTHON = """\
from sparserm import SparseRM

model = SparseRM.from_pretrained($head)

prompt = "How can I fall asleep faster?"
responses = [
    "Keep a regular bedtime, keep the room dark and cool, and put your phone away an hour before.",
    "Just drink a few beers, works every time.",
]

rewards = model.score([prompt, prompt], responses)  # NumPy float64, one per response
print("rewards:", rewards)

comparison = model.compare(prompt, responses)  # ranking, margin and differences by feature
print("best:", responses[comparison.ranking[0]], "margin:", comparison.margin)

explanation = model.explain(prompt, responses[0])  # contributions that sum to the reward
for part in explanation.contributions[:5]:
    print(f"{part.contribution:+.3f}  {part.label}")

print("win probability vs. a typical chosen, rejected response:", model.chance_to_beat(explanation.reward))
"""

_SHELL = """\
sparserm score --head $head --prompt "How can I fall asleep faster?" --response "Keep a regular bedtime." --json
sparserm compare --head $head --prompt "How can I fall asleep faster?" --response "Keep a regular bedtime." --response "No."
sparserm features $head
sparserm evaluate $head pairs.jsonl
sparserm score pairs.jsonl --head $head --out scores
sparserm best-of-n candidates.jsonl --head $head --out ranking.jsonl --pairs preferences.jsonl
sparserm export $head --out exported
"""

_SERVER = """\
sparserm serve $head --port 8000 &
curl http://127.0.0.1:8000/score --retry 60 --retry-delay 1 --retry-connrefused -H 'Content-Type: application/json' \\
  -d '{"prompts": "Do vaccines work?", "responses": ["Yes, as trials show.", "Nobody knows."]}'
"""

_BEST_OF_N = """\
from sparserm import SparseRM

model = SparseRM.from_pretrained($head)


def best_of_n(prompt, candidates):
    rewards = model.score([prompt] * len(candidates), candidates)
    return candidates[int(rewards.argmax())]


print(best_of_n("Name a good breakfast.", ["Oats with fruit and nuts.", "Nothing at all.", "Cake."]))
"""

_FILTER = """\
import json

from sparserm import SparseRM

model = SparseRM.from_pretrained($head)

with open("pairs.jsonl", encoding="utf-8") as file:
    pairs = [json.loads(line) for line in file]

prompts = [pair["prompt"] for pair in pairs]
chosen = model.score(prompts, [pair["chosen"] for pair in pairs])
rejected = model.score(prompts, [pair["rejected"] for pair in pairs])

with open("filtered.jsonl", "w", encoding="utf-8") as file:
    for pair, margin in zip(pairs, chosen - rejected):
        if margin > 0:  # the head agrees with the label
            file.write(json.dumps(pair, ensure_ascii=False) + "\\n")
"""

_TABLES = """\
import pandas as pd
from datasets import Dataset

from sparserm import SparseRM

model = SparseRM.from_pretrained($head)

table = pd.read_json("pairs.jsonl", lines=True)  # with pandas
table["reward"] = model.score(table["prompt"].tolist(), table["chosen"].tolist())
print(table.sort_values("reward").head())

rows = Dataset.from_pandas(table)  # with datasets
rows = rows.map(lambda part: {"margin": part["reward"] - model.score(part["prompt"], part["rejected"])}, batched=True)
print(rows.filter(lambda row: row["margin"] < 0).num_rows, "labels that the head contradicts")
"""

_TRL = """\
from sparserm.integrations.trl import SparseRMReward

reward = SparseRMReward($head)

# GRPOTrainer(model=..., reward_funcs=reward, args=..., train_dataset=...); RLOOTrainer takes the same arguments
"""

_DPO = """\
from sparserm.integrations.trl import preference_dataset

prompts = [[{"role": "user", "content": "How can I fall asleep faster?"}]]
samples = [["Keep a regular bedtime.", "Just drink a few beers, works every time.", "Read something dull in bed."]]
samples = [[[{"role": "assistant", "content": text}] for text in own] for own in samples]

pairs = preference_dataset($head, prompts, samples, min_margin=0.1)  # a datasets.Dataset
print(pairs[0]["chosen"], "is preferred to", pairs[0]["rejected"])

# DPOTrainer(model=..., args=..., train_dataset=pairs)
"""

_ALIGN = """\
sparserm align prompts.jsonl --reward $head --judge $judge --rounds 1 --out aligned
"""

_TRANSFORMERS = """\
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparserm.integrations.hf import export_classifier

export_classifier($head, Path("exported"))  # once; same as: sparserm export HEAD --out exported

model = AutoModelForSequenceClassification.from_pretrained("exported", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("exported")

messages = [
    {"role": "user", "content": "How can I fall asleep faster?"},
    {"role": "assistant", "content": "Keep a regular bedtime."},
]
text = tokenizer.apply_chat_template(messages, tokenize=False)
with torch.no_grad():
    reward = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0].item()
print(reward)
"""


def snippets(head: str) -> tuple[Snippet, ...]:
    """Code that uses ``head``, a name or a folder."""
    judge = "safety" if Path(head).name == "helpfulness" else "helpfulness"  # a head trained on other data
    python, shell = {"head": repr(head)}, {"head": shlex.quote(head), "judge": judge}
    return (
        Snippet("Python", "Score, compare and explain.", "python", Template(_PYTHON).substitute(python)),
        Snippet(
            "Command line",
            "All these accept --json. pairs.jsonl has rows with prompt, chosen and rejected; candidates.jsonl has rows with "
            "prompt and responses.",
            "bash",
            Template(_SHELL).substitute(shell),
        ),
        Snippet(
            "Server",
            "Also serves the endpoints of OpenRLHF, vLLM and Text Embeddings Inference; /docs describes all of them.",
            "bash",
            Template(_SERVER).substitute(shell),
        ),
        Snippet(
            "Best of N", "Returns the candidate with the highest reward.", "python", Template(_BEST_OF_N).substitute(python)
        ),
        Snippet(
            "Filter pairs for DPO",
            "Keeps pairs whose label agrees with the head; the others may be mislabelled.",
            "python",
            Template(_FILTER).substitute(python),
        ),
        Snippet(
            "pandas and datasets",
            "Rewards as a column of a data frame, and in the map of a dataset.",
            "python",
            Template(_TABLES).substitute(python),
        ),
        Snippet(
            "TRL reward function",
            "For GRPO and RLOO, conversational or plain text. Contributions by feature are logged with the rewards, to wandb "
            "and trackio too where report_to names them, and show what the policy optimises.",
            "python",
            Template(_TRL).substitute(python),
        ),
        Snippet(
            "TRL pairs for DPO",
            "Pairs the best sample of each prompt with the worst, if their margin is large enough.",
            "python",
            Template(_DPO).substitute(python),
        ),
        Snippet(
            "Align a policy",
            "Rounds of sampling, ranking and DPO on rows with a prompt. Independent judges show whether the policy improves or "
            "exploits what the head over-rewards. Policy and results are saved in aligned.",
            "bash",
            Template(_ALIGN).substitute(shell),
        ),
        Snippet(
            "Transformers",
            "Exports a model with one label, including the layers that the head needs. It loads without SparseRM and can be "
            "used as a reward model in TRL.",
            "python",
            Template(_TRANSFORMERS).substitute(python),
        ),
    )
