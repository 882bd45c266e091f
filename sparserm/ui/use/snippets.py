"""Working code for a head, to copy: plain templates, each of them run by a test."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from string import Template


@dataclass(frozen=True)
class Snippet:
    """A piece of code.

    Attributes:
        title: what it is for, in a word or two.
        about: what it does and what it needs.
        language: ``python`` or ``bash``.
        code: ready to be run.
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

rewards = model.score([prompt, prompt], responses)  # NumPy, float64, one for each response
print("rewards:", rewards)

comparison = model.compare(prompt, responses)  # ranking, margin, and what makes the difference
print("best:", responses[comparison.ranking[0]], "margin:", comparison.margin)

explanation = model.explain(prompt, responses[0])  # adds up to the reward, by feature and by token
for part in explanation.contributions[:5]:
    print(f"{part.contribution:+.3f}  {part.label}")

print("beats a typical chosen, rejected response with chance:", model.chance_to_beat(explanation.reward))
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

_TRL = """\
from sparserm.integrations.trl import SparseRMReward

reward = SparseRMReward($head)

# GRPOTrainer(model=..., reward_funcs=reward, args=..., train_dataset=...), and RLOOTrainer in the same way
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

export_classifier($head, Path("exported"))  # once; or: sparserm export HEAD --out exported

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
    """Code that uses the head called ``head``, a name or a folder."""
    judge = "safety" if Path(head).name == "helpfulness" else "helpfulness"  # one that was trained on something else
    python, shell = {"head": repr(head)}, {"head": shlex.quote(head), "judge": judge}
    return (
        Snippet("Python", "Score, compare and explain.", "python", Template(_PYTHON).substitute(python)),
        Snippet(
            "Command line",
            "Each command takes --json. pairs.jsonl holds rows with prompt, chosen and rejected; candidates.jsonl rows with "
            "prompt and responses.",
            "bash",
            Template(_SHELL).substitute(shell),
        ),
        Snippet(
            "Server",
            "OpenRLHF, and clients of vLLM and Text Embeddings Inference, find their paths there too; /docs describes all.",
            "bash",
            Template(_SERVER).substitute(shell),
        ),
        Snippet("Best of N", "The candidate with the largest reward.", "python", Template(_BEST_OF_N).substitute(python)),
        Snippet(
            "Filter pairs for DPO",
            "Keeps the pairs of pairs.jsonl whose label the head agrees with; those it contradicts may be mislabelled.",
            "python",
            Template(_FILTER).substitute(python),
        ),
        Snippet(
            "TRL reward function",
            "For GRPO and RLOO, conversational or plain. What each feature gives is logged beside the rewards: which features "
            "the policy climbs.",
            "python",
            Template(_TRL).substitute(python),
        ),
        Snippet(
            "TRL pairs for DPO",
            "The best sample of each prompt against the worst, where they lie far enough apart.",
            "python",
            Template(_DPO).substitute(python),
        ),
        Snippet(
            "Align a policy",
            "Rounds of sampling, ranking and DPO with rows that have a prompt; judges that had no part in it tell whether the "
            "policy got better or has found what the head over-rewards. The policy and its figures are kept in aligned.",
            "bash",
            Template(_ALIGN).substitute(shell),
        ),
        Snippet(
            "Transformers",
            "A model with one label, the layers that the head needs included. What is exported loads where SparseRM is not "
            "installed, and is a reward model for TRL.",
            "python",
            Template(_TRANSFORMERS).substitute(python),
        ),
    )
