"""Export of heads to Hugging Face formats: a transformers classifier, steering vectors, or the head alone, with a model card.

``import sparserm.integrations.hf`` registers exported classifiers with ``AutoModelForSequenceClassification``; without SparseRM
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

from sparserm.backbone.model import Backbone, decoder_layers, resolve, stored_dtype
from sparserm.backbone.tokenization import ChatTokenizer
from sparserm.heads.model_card import card_markdown
from sparserm.heads.reward import RewardHead
from sparserm.heads.saved import SavedHead, load_head, save_head
from sparserm.integrations.classifier import SparseRMClassifierConfig, SparseRMForSequenceClassification
from sparserm.model import SparseRM
from sparserm.pairs.messages import as_prompt, as_response
from sparserm.pairs.templates import BLOCKS, ENDS, OPENINGS, STOPS, THINKING
from sparserm.support.defaults import HEAD_FILES
from sparserm.support.files import replacing_folder, require_only
from sparserm.support.hub import hub_problem
from sparserm.types import Progress, SparseRMError

AutoModelForSequenceClassification.register(SparseRMClassifierConfig, SparseRMForSequenceClassification, exist_ok=True)

#: Files of exported directions.
STEERING_FILES = ("steering.safetensors", "steering.json")

#: Files of an exported classifier: those of transformers' models and tokenizers, its code, the card, and the head itself.
CLASSIFIER_FILES = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json", "classifier.py", "README.md"),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "vocab.txt", "merges.txt", "spiece.model"),
    *(f"head/{name}" for name in HEAD_FILES),
)

#: Test conversations: tokenising the templated text as a whole must give the tokens that the head was trained on.
_TRIALS = (
    *(("Hello?", "the answer is yes"), ("What is 2 + 2?\nSay why.", "It is 4:\n\n- two\n- and two")),
    ("Hello?", "<think>Yes or no?</think>\n\n the answer is yes \n"),
)


def fold(head: RewardHead) -> tuple[np.ndarray, float]:
    """Fold a head into one direction ``v [d]`` float64 and an offset ``b``: the reward is ``<h, v> + b`` for pooled ``h``.

    With gated scores this is the reward of a state at which all features fire.
    """
    scale = head.weights / head.sigma
    direction = scale @ head.directions.astype(np.float64)
    return direction, float(head.bias - direction @ head.center.astype(np.float64) - scale @ head.mu)


def export_classifier(head: str | Path, folder: Path, progress: Progress | None = None) -> None:
    """Export a head as a transformers classifier with one label.

    ``folder`` gets the truncated backbone with the head, the tokenizer, whose chat template writes responses as they are scored
    (:func:`spoken_template`), a model card, and the head itself in ``head``. A head on projections is folded into one
    direction; a gated one keeps its directions and its part of the encoder, see
    :class:`~sparserm.integrations.classifier.GatedScores`. These are float32, and so is the backbone unless it is stored in
    bfloat16. It is written as a whole; an earlier export there is replaced.

    Raises:
        SparseRMError: ``folder`` holds other files, the head does not exist or does not read the residual stream after a
            layer, or the backbone's chat template gives different tokens when a conversation is tokenised as one text.
    """
    require_only(folder, CLASSIFIER_FILES, "an exported classifier")
    saved = load_head(head)
    hook = saved.card.hook_point
    layer = hook.layer - (hook.site == "resid_pre")  # the input of a layer is the output of the one before
    if hook.site not in ("resid_post", "resid_pre") or layer < 0:
        raise SparseRMError(
            f"head {saved.card.name} reads {hook.name}; expected the residual stream after a layer, where a truncated model "
            "ends; train a head with an SAE of such a hook point to export it"
        )
    name = saved.card.backbone_source
    stored = stored_dtype(resolve(name, progress, may_download=False)[0])
    source = Backbone.load(name, through_layer=layer, dtype=stored, device="cpu", may_download=False, progress=progress)
    SparseRM(saved, source)  # checks the backbone
    tokenizer = source.chat.tokenizer
    tokenizer.chat_template = spoken_template() + source.chat.template
    _check_tokens(source.chat)
    with replacing_folder(folder, replace=True) as new:
        _classifier(saved, source).save_pretrained(new)
        tokenizer.save_pretrained(new)
        _write_tokenizer_for_transformers_4(new / "tokenizer_config.json")
        save_head(saved, new / "head")
        (new / "README.md").write_text(_model_card(saved, "transformers", _LOAD_CLASSIFIER), encoding="utf-8")


def spoken_template() -> str:
    """Jinja that goes before a chat template, so that it writes what assistants say as the engine reads it.

    The last assistant turn is as :func:`~sparserm.pairs.templates.spoken` gives it, without white space around it, and so is an
    earlier one that begins with thinking.
    Marks of an assistant's turn at the beginning of a response remain. It is in exported tokenizers, which work without
    SparseRM.
    """
    marks = {"ends": ENDS, "thinking": THINKING, "blocks": BLOCKS, "stops": STOPS, "openings": OPENINGS}
    constants = "".join(f"{{%- set sparserm_{name} = {values!r} -%}}\n" for name, values in marks.items())
    return constants + Path(__file__).with_name("spoken.jinja").read_text(encoding="utf-8")


def export_steering(head: str | Path, folder: Path) -> None:
    """Export the directions of a head for steering.

    ``steering.safetensors`` holds the unit ``directions [K, d]`` of the head's features and ``reward [d]``, their weighted sum
    (see :func:`fold`); ``steering.json`` describes the hook point and the features, and says in ``score`` whether the head's
    scores are gated: ``reward`` is then the direction of the reward where all features fire. The folder is written as a whole;
    an earlier export there is replaced.

    Raises:
        SparseRMError: ``folder`` holds other files, or the head does not exist.
    """
    require_only(folder, STEERING_FILES, "exported directions")
    saved = load_head(head)
    reward = fold(saved.head)[0].astype(np.float32)
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
        "score": saved.head.score,
        "features": features,
    }
    with replacing_folder(folder, replace=True) as new:
        (new / "steering.safetensors").write_bytes(save({"directions": saved.head.directions, "reward": reward}))
        (new / "steering.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def export_head(head: str | Path, folder: Path) -> None:
    """Export the head alone (tens of kilobytes) with a model card; it needs a copy of the backbone to run.

    ``folder`` is written as a whole; an earlier export there is replaced.

    Raises:
        SparseRMError: ``folder`` holds other files, or the head does not exist.
    """
    require_only(folder, HEAD_FILES, "a head")
    saved = load_head(head)
    with replacing_folder(folder, replace=True) as new:
        save_head(saved, new)
        (new / "README.md").write_text(_model_card(saved, "sparserm", _LOAD_HEAD), encoding="utf-8")


def push_to_hub(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload an exported folder to the Hub repository ``repo`` (``USER/NAME``), created if missing, and return its URL.

    Args:
        private: whether a newly created repository is private.

    Raises:
        SparseRMError: the Hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        made = api.create_repo(repo, exist_ok=True, private=private)
        api.upload_folder(repo_id=made.repo_id, folder_path=str(folder), commit_message="A reward head by SparseRM")
    except Exception as error:  # the Hub's client raises many types of error
        raise SparseRMError(
            f"upload to {repo!r} on the Hub failed: {hub_problem(error, repo)}; expected USER/NAME and write access "
            f"(`hf auth login`); {folder} is complete and can be uploaded by hand"
        ) from error
    return str(made)


def _model_card(saved: SavedHead, library: str, loading: str) -> str:
    """Model card for the Hub: facts and limits of the head, its features, and how to load it."""
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

The reward is a sum over these features. Frequencies are shares of the training responses in which a feature is active.

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

The tokenizer's chat template leaves out white space around the response, thinking at its beginning (`<think>` and its like) and
marks at its end (`<|im_end|>`), as SparseRM does, but not an assistant's mark at its beginning (`<|im_start|>assistant`). A
text that another template made is read as it is, with all of these.

With SparseRM installed, `import sparserm.integrations.hf` replaces `trust_remote_code`, and
`SparseRM.from_pretrained(FOLDER + "/head")` explains every reward.
"""

_LOAD_HEAD = """\
```python
from sparserm import SparseRM

model = SparseRM.from_pretrained(FOLDER)  # or USER/NAME on the Hub; with your own copy of the backbone
print(model.score("...", "..."))
```
"""


def _classifier(saved: SavedHead, source: Backbone) -> SparseRMForSequenceClassification:
    *_, opening, closing = source.chat.frame(("user",))  # token ids before and after the response
    n_layers = len(decoder_layers(source.model))
    backbone = source.model.config.to_dict() | {"num_hidden_layers": n_layers}
    backbone.pop("_name_or_path", None)  # a path on this machine
    if backbone.get("layer_types"):
        backbone["layer_types"] = backbone["layer_types"][:n_layers]
    config = SparseRMClassifierConfig(
        backbone=backbone,
        pooling=saved.head.pooling,
        response_start=opening,
        response_end=closing,
        empty_reward=saved.least_reward,
        pad_token_id=source.chat.tokenizer.pad_token_id,
        gate=_gate(saved.head),
    )
    with torch.device("meta"):  # its own backbone takes no memory
        model = SparseRMForSequenceClassification(config)
    model.backbone = source.model
    model.score.to_empty(device="cpu")
    with torch.no_grad():
        for name, values in _head_tensors(saved.head).items():
            getattr(model.score, name).copy_(torch.from_numpy(values))
    return model


def _gate(head: RewardHead) -> dict[str, Any] | None:
    """How the features of a gated head are encoded, for the configuration; None for projections."""
    if head.encoder is None:
        return None
    limit = {} if head.encoder.max_norm is None else {"max_norm": head.encoder.max_norm}
    return {
        **limit,
        "features": len(head.features),
        "architecture": head.encoder.architecture,
        "normalize_activations": head.encoder.normalize_activations,
        "apply_b_dec_to_input": head.encoder.apply_b_dec_to_input,
    }


def _head_tensors(head: RewardHead) -> dict[str, np.ndarray]:
    """The tensors of the exported head by name: one direction for projections, ``weights / sigma`` and the gate otherwise."""
    if head.encoder is None:
        direction, offset = fold(head)
        return {"weight": direction[None], "bias": np.array([offset])}
    scale = head.weights / head.sigma
    linear = {"weight": scale[None], "bias": np.array([head.bias - scale @ head.mu])}
    return {**linear, "directions": head.directions, "center": head.center, **head.encoder.weights}


def _write_tokenizer_for_transformers_4(file: Path) -> None:
    """Rename what transformers 5 writes under new names to those of 4, which 5 reads, too."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check_tokens(chat: ChatTokenizer) -> None:
    """Check that the tokenizer's template, tokenised as one text, gives the tokens of ``chat``.

    Raises:
        SparseRMError: it gives others.
    """
    for prompt, response in _TRIALS:
        own = chat(as_prompt(prompt), as_response(response)).ids
        messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        text = chat.tokenizer.apply_chat_template(messages, tokenize=False)
        whole = tuple(chat.tokenizer(text, add_special_tokens=False)["input_ids"])
        if whole != own:
            raise SparseRMError(
                f"the backbone's chat template, tokenised as one text, gives other tokens ({len(whole)}) than those that the "
                f"head was trained on ({len(own)}); expected the same tokens, since rewards would differ; use the head through "
                "SparseRM"
            )
