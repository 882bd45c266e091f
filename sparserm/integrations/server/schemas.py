"""Request and error schemas; FastAPI validates them and documents them under ``/docs``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Messages = list[dict[str, Any]]
#: A string is one user turn; messages have ``role`` and ``content``.
PromptValue = str | Messages
ResponseValue = str | Messages


class ScoreRequest(BaseModel):
    """Responses to score, each with its prompt; a single prompt applies to all responses."""

    prompts: PromptValue | list[PromptValue]
    responses: list[ResponseValue]
    head: str | None = None


class CompareRequest(BaseModel):
    """Responses to one prompt, to be ranked."""

    prompt: PromptValue
    responses: list[ResponseValue]
    head: str | None = None


class ExplainRequest(BaseModel):
    """One response, whose reward is to be broken down by feature and by token."""

    prompt: PromptValue
    response: ResponseValue
    head: str | None = None


class GetRewardRequest(BaseModel):
    """OpenRLHF's remote reward model: prompt and response in one text, in the policy's chat template."""

    query: list[str]
    prompts: list[str] | None = None
    labels: list[Any] | None = None


class VllmRequest(BaseModel):
    """vLLM's ``/classify`` and ``/pooling``: templated texts, or one conversation that ends with the assistant."""

    model_config = ConfigDict(protected_namespaces=())

    model: str | None = None
    input: str | list[str] | None = None
    messages: Messages | None = None


class HubParameters(BaseModel):
    """What ``text_classification`` of ``huggingface_hub.InferenceClient`` asks for; softmax of one label would always be 1."""

    function_to_apply: Literal["sigmoid", "none"] | None = None
    top_k: int | None = None


class PredictRequest(BaseModel):
    """TEI's ``/predict``: a templated text, a (prompt, response) pair, or a batch of these, each in a list.

    With ``parameters``, which ``huggingface_hub`` sends, the answer is a batch also for one text, as that client expects.
    """

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False
    parameters: HubParameters | None = None


class RerankRequest(BaseModel):
    """TEI's ``/rerank``: responses to a prompt, to be ranked."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class Failure(BaseModel):
    """Body of every error response."""

    error: str = Field(description="What was got, what was expected and how to fix it.")
    error_type: str
