"""Heads in the formats of the Hugging Face ecosystem: a classifier of transformers, steering vectors, a model card.

``import sparserm.integrations.hf`` makes ``AutoModelForSequenceClassification`` know exported classifiers; without SparseRM
they load with ``trust_remote_code=True``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save
from transformers import AutoModelForSequenceClassification

from sparserm.backbone.model import Backbone, decoder_layers
from sparserm.backbone.tokenization import ChatTokenizer
from sparserm.heads.model_card import card_markdown
from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import SavedHead, load_head, save_head
from sparserm.integrations.classifier import SparseRMClassifierConfig, SparseRMForSequenceClassification
from sparserm.model import SparseRM
from sparserm.types import Message, Progress, SparseRMError

AutoModelForSequenceClassification.register(SparseRMClassifierConfig, SparseRMForSequenceClassification, exist_ok=True)

#: Conversations on which the template's text, tokenised whole, has to give the tokens that the head was trained on.
_TRIALS = (("Hello?", "the answer is yes"), ("What is 2 + 2?\nSay why.", "It is 4:\n\n- two\n- and two"))


def fold(head: RewardHead) -> tuple[np.ndarray, float]:
    """The one direction ``[d]`` float64 and offset that give the same rewards: ``<h, v> + b`` for pooled ``h``."""
    scale = head.weights / head.sigma
    direction = scale @ head.directions.astype(np.float64)
    return direction, float(head.bias - direction @ head.center.astype(np.float64) - scale @ head.mu)


def export_classifier(head: str | Path, folder: Path, progress: Progress | None = None) -> None:
    """Write a transformers model with one label into ``folder``: cut backbone, folded head, tokenizer, model card, and the
    head itself in ``folder/head``.

    Raises:
        SparseRMError: there is no such head, it does not read the residual stream behind a layer, or its chat template gives
            other tokens when a conversation is tokenised as one text.
    """
    saved = load_head(head)
    hook = saved.card.hook_point
    layer = hook.layer - (hook.site == "resid_pre")  # what enters a layer leaves the one below
    if hook.site == "mlp_out" or layer < 0:
        raise SparseRMError(
            f"head {saved.card.name} reads {hook.name}; expected the residual stream behind a layer, where a cut model ends; "
            "train a head with an SAE of such a place to export it"
        )
    source = Backbone.load(saved.card.backbone_source, through_layer=layer, dtype="float32", device="cpu", progress=progress)
    SparseRM(saved, source)  # refuses another backbone
    _check_tokens(source.chat)
    _classifier(saved, source).save_pretrained(folder)
    tokenizer = source.chat.tokenizer
    tokenizer.chat_template = source.chat.template
    tokenizer.save_pretrained(folder)
    save_head(saved, folder / "head")
    (folder / "README.md").write_text(_model_card(saved, "transformers", _LOAD_CLASSIFIER), encoding="utf-8")


def export_steering(head: str | Path, folder: Path) -> None:
    """Write ``steering.safetensors`` into ``folder``: unit ``directions [K, d]`` of the head's features, and ``reward [d]``,
    the direction that they add up to; ``steering.json`` says where they are added and what each is.

    Raises:
        SparseRMError: there is no such head.
    """
    saved = load_head(head)
    folder.mkdir(parents=True, exist_ok=True)
    reward = fold(saved.head)[0].astype(np.float32)
    (folder / "steering.safetensors").write_bytes(save({"directions": saved.head.directions, "reward": reward}))
    features = [
        {
            "feature": int(feature),
            "label": saved.card.labels.get(int(feature), ""),
            "weight": float(weight),
            "sigma": float(sigma),
        }
        for feature, weight, sigma in zip(saved.head.features, saved.head.weights, saved.head.sigma, strict=True)
    ]
    about = {
        "backbone": saved.card.backbone,
        "hook": saved.card.hook,
        "layer": saved.card.hook_point.layer,
        "features": features,
    }
    (folder / "steering.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export_head(head: str | Path, folder: Path) -> None:
    """Write the head alone, tens of kilobytes, with a model card: it loads against the user's own copy of the backbone.

    Raises:
        SparseRMError: there is no such head.
    """
    saved = load_head(head)
    save_head(saved, folder)
    (folder / "README.md").write_text(_model_card(saved, "sparserm", _LOAD_HEAD), encoding="utf-8")


def push_to_hub(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload all of an exported folder to ``repo`` (``USER/NAME``) of the hub, made where it is not there; its address.

    Args:
        private: of a repository that is made.

    Raises:
        SparseRMError: the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        made = api.create_repo(repo, exist_ok=True, private=private)
        api.upload_folder(repo_id=made.repo_id, folder_path=str(folder), commit_message="A reward head by SparseRM")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SparseRMError(
            f"{repo!r} could not be written to on the hub ({reason}); expected USER/NAME and the right to write there; log in "
            f"with `hf auth login`; {folder} is complete and can be uploaded by hand"
        ) from error
    return str(made)


def _model_card(saved: SavedHead, library: str, loading: str) -> str:
    """A model card as the hub shows it: the head's facts and limits, its features, and how to load it."""
    labels = saved.card.labels
    rows = [
        f"| {feature} | {str(labels.get(feature, '')).replace('|', '/')} | {weight:+.3f} | {chosen:.1%} | {rejected:.1%} |"
        for feature, weight, chosen, rejected in zip(
            saved.head.features.tolist(), saved.head.weights, saved.f_chosen, saved.f_rejected, strict=True
        )
    ]
    card, features = card_markdown(saved), "\n".join(rows)
    return _CARD.format(library=library, card=card, features=features, loading=loading)


_CARD = """\
---
library_name: {library}
pipeline_tag: text-classification
tags: [reward-model, sparserm, interpretability]
---

{card}
## Features

The reward is a sum over these. Frequencies are of the training responses in which a feature is active.

| feature | label | weight | active in chosen | in rejected |
|---|---|---|---|---|
{features}

## How to load it

{loading}"""

_LOAD_CLASSIFIER = """\
```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(FOLDER, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
messages = [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]
text = tokenizer.apply_chat_template(messages, tokenize=False)
reward = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits[0, 0]
```

With SparseRM installed `import sparserm.integrations.hf` takes the place of `trust_remote_code`, and
`SparseRM.from_pretrained(FOLDER + "/head")` explains every reward.
"""

_LOAD_HEAD = """\
```python
from sparserm import SparseRM

model = SparseRM.from_pretrained(FOLDER)  # with your own copy of the backbone
print(model.score("...", "..."))
```
"""


def _classifier(saved: SavedHead, source: Backbone) -> SparseRMForSequenceClassification:
    *_, opening, closing = source.chat.frame(("user",))  # between a user's content and the response, and behind it
    n_layers = len(decoder_layers(source.model))
    backbone = source.model.config.to_dict() | {"num_hidden_layers": n_layers}
    if backbone.get("layer_types"):
        backbone["layer_types"] = backbone["layer_types"][:n_layers]
    config = SparseRMClassifierConfig(
        backbone=backbone,
        pooling=saved.head.pooling,
        response_start=opening,
        response_end=closing,
        empty_reward=saved.least_reward,
        pad_token_id=source.chat.tokenizer.pad_token_id,
    )
    model = SparseRMForSequenceClassification(config)
    model.backbone = source.model
    direction, offset = fold(saved.head)
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(direction))
        model.score.bias.fill_(offset)
    return model


def _check_tokens(chat: ChatTokenizer) -> None:
    for prompt, response in _TRIALS:
        own = chat((Message("user", prompt),), response).ids
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = chat.tokenizer.apply_chat_template(messages, chat_template=chat.template, tokenize=False)
        whole = tuple(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
        if whole != own:
            raise SparseRMError(
                f"the backbone's chat template, tokenised as one text, gives {len(whole)} tokens for a conversation of "
                f"{len(own)} that differ from those that the head was trained on; expected the same, or rewards would differ; "
                "use the head through SparseRM"
            )
