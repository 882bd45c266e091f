"""What requests hold, by the interface they belong to; FastAPI checks them and describes them under ``/docs``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Messages = list[dict[str, Any]]
#: A text is one user turn; messages have ``role`` and ``content``.
PromptValue = str | Messages
ResponseValue = str | Messages


class ScoreRequest(BaseModel):
    """Rewards of responses, each to its prompt; one prompt alone is meant for all."""

    prompts: PromptValue | list[PromptValue]
    responses: list[ResponseValue]
    head: str | None = None


class CompareRequest(BaseModel):
    """Responses to one prompt, ranked."""

    prompt: PromptValue
    responses: list[ResponseValue]
    head: str | None = None


class ExplainRequest(BaseModel):
    """One response, its reward taken apart by feature and by token."""

    prompt: PromptValue
    response: ResponseValue
    head: str | None = None


class GetRewardRequest(BaseModel):
    """OpenRLHF's remote reward model: prompt and response in one text, as the policy saw them."""

    query: list[str]
    prompts: list[str] | None = None
    labels: list[Any] | None = None


class VllmRequest(BaseModel):
    """vLLM's ``/classify`` and ``/pooling``: templated texts, or one conversation that ends with the assistant."""

    model_config = ConfigDict(protected_namespaces=())

    model: str | None = None
    input: str | list[str] | None = None
    messages: Messages | None = None


class PredictRequest(BaseModel):
    """TEI's ``/predict``: a templated text, a (prompt, response), or a batch of lists of these."""

    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False


class RerankRequest(BaseModel):
    """TEI's ``/rerank``: responses to a prompt, best first."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class Failure(BaseModel):
    """What every refusal says."""

    error: str = Field(description="What was got, what was expected and how to mend it.")
    error_type: str
