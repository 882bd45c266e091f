"""Request and error schemas; FastAPI validates them and documents them under ``/docs``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from sparserm.support.files import one_line
from sparserm.types import SparseRMError

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


class _Strict(BaseModel):
    """A request of another server's protocol, whose parameters are never ignored in silence.

    Attributes:
        harmless: parameters that change no score here.
        unsupported: parameters that would, and are accepted only with the values that stand for "not set".
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())
    harmless: ClassVar[frozenset[str]] = frozenset()
    unsupported: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _refuse_others(self) -> _Strict:
        for name, value in (self.model_extra or {}).items():
            if name in self.unsupported and value:
                raise ValueError(f"{one_line(name, 100)!r} would change what is scored and is not supported; leave it out")
            if name not in self.harmless | self.unsupported and value is not None:
                raise ValueError(f"{one_line(name, 100)!r} is not a parameter of this path; leave it out")
        return self


class VllmParameters(_Strict):
    """Parameters of all of vLLM's paths. ``softmax`` and ``activation`` are earlier names of ``use_activation``."""

    harmless = frozenset({"user", "cache_salt", "add_special_tokens", "request_id"})
    unsupported = frozenset({"priority", "padding", "mm_processor_kwargs", "chat_template_kwargs"})

    model: str | None = None
    use_activation: bool | None = None
    softmax: bool | None = None
    activation: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None

    @property
    def activated(self) -> bool | None:
        """Whether to return the sigmoid of the reward; None for the default of the path.

        Raises:
            SparseRMError: the names say different things.
        """
        given = {one for one in (self.use_activation, self.softmax, self.activation) if one is not None}
        if len(given) > 1:
            raise SparseRMError(
                "use_activation, softmax and activation say different things; expected use_activation, of which the others are "
                "earlier names"
            )
        return next(iter(given), None)


class VllmRequest(VllmParameters):
    """vLLM's ``/classify``: templated texts or their token ids, or one conversation that ends with the assistant."""

    unsupported = VllmParameters.unsupported | {
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "media_io_kwargs",
    }

    input: str | list[str] | list[int] | list[list[int]] | None = None
    messages: Messages | None = None


class PoolingRequest(VllmRequest):
    """vLLM's ``/pooling``: as ``/classify``, with a choice of how numbers are written."""

    unsupported = VllmRequest.unsupported | {"dimensions"}

    task: Literal["classify", "score", "reward"] | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] = "float"
    embed_dtype: Literal["float32"] = "float32"
    endianness: Literal["native", "little", "big"] = "native"


class TokenizeRequest(_Strict):
    """vLLM's ``/tokenize``: a text, whose ids ``/classify`` and ``/pooling`` take as input."""

    harmless = frozenset({"add_special_tokens", "return_token_strs", "request_id"})

    model: str | None = None
    prompt: str


class _VllmPairs(VllmParameters):
    """Parameters of vLLM's paths for pairs of texts."""

    harmless = VllmParameters.harmless | {"encoding_format"}
    unsupported = VllmParameters.unsupported | {"instruction", "max_tokens_per_query", "max_tokens_per_doc"}


class VllmScoreRequest(_VllmPairs):
    """vLLM's ``/score``: prompts and responses as ``queries`` and ``documents``, or under one of the other pairs of names."""

    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The prompts and the responses, as many or one prompt for all.

        Raises:
            SparseRMError: there are none, there are several kinds, or the numbers do not fit.
        """
        names = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
        given = {name for pair in names for name in pair if getattr(self, name) is not None}
        pair = next((pair for pair in names if given == set(pair)), None)
        if pair is None:
            raise SparseRMError(
                f"got {', '.join(sorted(given)) or 'no texts'}; expected queries and documents, or text_1 and text_2"
            )
        prompts, responses = ([one] if isinstance(one, str) else one for one in (getattr(self, name) for name in pair))
        if not responses or len(prompts) not in (1, len(responses)):
            raise SparseRMError(
                f"got {len(prompts)} {pair[0]} and {len(responses)} {pair[1]}; expected one of {pair[0]} for each of "
                f"{pair[1]}, or one for all"
            )
        return prompts if len(prompts) > 1 else prompts * len(responses), responses


class VllmRerankRequest(_VllmPairs):
    """vLLM's, Jina's and Cohere's ``/rerank``: responses (``documents``) to a prompt (``query``), to be ranked."""

    query: str
    documents: str | list[str]
    top_n: Annotated[int, Field(ge=0)] | None = None
    return_documents: bool = True


class _Tei(_Strict):
    """Parameters of TEI's paths."""

    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    raw_scores: bool = False


class HubParameters(_Strict):
    """``parameters`` of ``huggingface_hub``'s client for text classification."""

    harmless = frozenset({"top_k"})

    function_to_apply: Literal["sigmoid", "none"] | None = None


class PredictRequest(_Tei):
    """TEI's ``/predict``: a templated text, a (prompt, response) pair, or a batch of these, each in a list.

    With ``parameters``, which ``huggingface_hub`` sends, the answer is a batch also for one text, as that client expects.
    """

    inputs: str | list[str] | list[list[str]]
    parameters: HubParameters | None = None

    @property
    def raw(self) -> bool:
        """Whether to return the reward instead of its sigmoid."""
        asked = self.parameters.function_to_apply if self.parameters else None
        return self.raw_scores if asked is None else asked == "none"


class RerankRequest(_Tei):
    """TEI's ``/rerank``: responses (``texts``) to a prompt (``query``), to be ranked."""

    query: str
    texts: list[str]
    return_text: bool = False


def _form(default: str, other: str, names: Collection[str], own: str) -> Discriminator:
    """Tells two forms of a request apart: ``other`` if one of ``names`` is there and ``own`` is not, else ``default``."""

    def form(body: Any) -> str:
        given = body if isinstance(body, Mapping) else vars(body) if isinstance(body, BaseModel) else {}
        return other if own not in given and any(name in given for name in names) else default

    return Discriminator(form)


#: Names of the forms, which pydantic adds to the place of an error.
FORMS = ("sparserm", "tei", "vllm")
#: A request to ``/score``: our own form, or vLLM's.
AnyScore = Annotated[
    Annotated[ScoreRequest, Tag("sparserm")] | Annotated[VllmScoreRequest, Tag("vllm")],
    _form("sparserm", "vllm", ("queries", "text_1", "data_1"), "responses"),
]
#: A request to ``/rerank``: TEI's form, or vLLM's.
AnyRerank = Annotated[
    Annotated[RerankRequest, Tag("tei")] | Annotated[VllmRerankRequest, Tag("vllm")],
    _form("tei", "vllm", ("documents",), "texts"),
]


class OpenAIError(BaseModel):
    """The error in the form of OpenAI's API, on vLLM's paths."""

    message: str = Field(description="What was got, what was expected and how to fix it.")
    type: str
    param: str | None
    code: int


class Failure(BaseModel):
    """Body of every error response."""

    error: str | OpenAIError = Field(description="What was got, what was expected and how to fix it.")
    error_type: str
