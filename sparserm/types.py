"""The values that flow between the stages, in the order in which they arise.

Every class here is frozen and holds plain data; arrays are NumPy and their shapes stand beside them:
``n`` responses or pairs, ``T`` response tokens, ``d`` = d_model, ``d_sae`` latents of the SAE, ``K`` features of a head.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

Pooling = Literal["last", "mean"]
Site = Literal["resid_post", "resid_pre", "mlp_out"]
#: When a latent counts as active in a response: at one of its tokens or more, or at half of them or more.
Activity = Literal["any", "most"]

#: ``progress(done, total, what)``; called from the working thread, may raise to cancel the work.
Progress = Callable[[int, int, str], None]


class SparseRMError(ValueError):
    """Something a user handed in cannot be used; the message says what was got, what was expected and how to mend it."""


@dataclass(frozen=True, order=True)
class HookPoint:
    """A place in the residual stream of layer ``layer`` (0-based), named as in TransformerLens and SAELens."""

    layer: int
    site: Site = "resid_post"

    @property
    def name(self) -> str:
        """TransformerLens name, e.g. ``blocks.15.hook_resid_post``."""
        return f"blocks.{self.layer}.hook_{self.site}"

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """Read a TransformerLens hook name.

        Raises:
            SparseRMError: the name is not one of the three supported hook points.
        """
        match = re.fullmatch(r"blocks\.(\d+)\.hook_(resid_post|resid_pre|mlp_out)", name)
        if match is None:
            raise SparseRMError(
                f"hook point {name!r} is not supported: expected blocks.<layer>.hook_resid_post, hook_resid_pre or "
                "hook_mlp_out; choose an SAE trained on one of these"
            )
        return cls(int(match[1]), match[2])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


#: A prompt is a conversation that the response continues; a plain string means one user turn.
Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Text:
    """A response to a prompt: what has a representation and a reward."""

    prompt: Prompt
    response: str


@dataclass(frozen=True)
class PreferencePair:
    """One comparison: to ``prompt``, ``chosen`` was preferred over ``rejected``.

    ``row`` is its 1-based row in the source; a row with several chosen or rejected responses gives one pair for each two.
    ``category`` and ``id`` are what the source's columns of these kinds say, where it has them: no head sees them.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    row: int = 0
    category: str = ""
    id: str = ""


@dataclass(frozen=True)
class PairIssue:
    """One finding of the validation of a preference file.

    ``severity`` is ``error`` (the row cannot be used) or ``warning`` (it can, but should be known).
    """

    row: int
    column: str
    problem: str
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        return f"row {self.row}, column {self.column}: {self.problem}"


@dataclass(frozen=True)
class PreferenceData:
    """The pairs of one source and everything its validation found; nothing is dropped without an entry in ``issues``."""

    name: str
    pairs: tuple[PreferencePair, ...]
    issues: tuple[PairIssue, ...] = ()
    n_rows: int = 0
    content_hash: str = ""

    @property
    def n_skipped(self) -> int:
        """Rows of the source that are not in ``pairs``."""
        return self.n_rows - len({pair.row for pair in self.pairs})


@dataclass(frozen=True)
class TokenizedText:
    """A templated (prompt, response) as token ids.

    The response's own tokens are ``ids[start:end]``; ``ids[end:]`` is what the template closes the turn with, such as
    ``<|im_end|>``. ``n_truncated`` tokens were cut from the left so that the text fits the context.
    """

    ids: tuple[int, ...]
    start: int
    end: int
    n_truncated: int = 0


ACTIVITIES: tuple[Activity, ...] = get_args(Activity)

#: One latent in one response: its id, the share of the response's tokens at which it fired, its largest activation over them.
FIRED = np.dtype([("latent", np.int32), ("rate", np.float32), ("peak", np.float32)])


def firings(latents: np.ndarray, rate: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """``[nnz]`` of :data:`FIRED` from its columns."""
    records = np.empty(len(latents), FIRED)
    records["latent"], records["rate"], records["peak"] = latents, rate, peak
    return records


@dataclass(frozen=True)
class LatentSummary:
    """How the SAE's latents fired over a set of responses, sparse by row (CSR).

    Row ``i`` holds the latents ``indices[indptr[i]:indptr[i + 1]]`` that fired at one response token or more.

    Attributes:
        indptr: ``[n + 1]`` int64.
        fired: ``[nnz]`` of :data:`FIRED`, latents ascending within a row: one array, so that taking rows is one pass.
        d_sae: number of latents of the SAE.
    """

    indptr: np.ndarray
    fired: np.ndarray
    d_sae: int

    @property
    def indices(self) -> np.ndarray:
        """``[nnz]`` int32 latent ids."""
        return self.fired["latent"]

    @property
    def rate(self) -> np.ndarray:
        """``[nnz]`` float32, share of the response's tokens at which the latent fired."""
        return self.fired["rate"]

    @property
    def peak(self) -> np.ndarray:
        """``[nnz]`` float32, its largest activation over the response's tokens."""
        return self.fired["peak"]

    def take(self, rows: np.ndarray) -> LatentSummary:
        """The responses ``rows``, in that order; neighbours share this one's memory, and cannot be written to."""
        if (run := _run(rows)) is not None:
            start, end = self.indptr[run.start], self.indptr[run.stop]
            indptr = self.indptr[run.start : run.stop + 1] - start
            return LatentSummary(indptr, _shared(self.fired, slice(start, end)), self.d_sae)
        counts = np.diff(self.indptr)[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        return LatentSummary(indptr, self.fired.take(entries), self.d_sae)  # by [] it would take five times as long

    def frequency(self, activity: Activity) -> np.ndarray:
        """``[d_sae]`` share of the responses in which each latent is active."""
        active = self.indices if activity == "any" else self.indices[is_active(self.rate, activity)]
        return np.bincount(active, minlength=self.d_sae) / max(1, len(self.indptr) - 1)


def is_active(rate: np.ndarray, activity: Activity) -> np.ndarray:
    """Whether a latent that fires at this share of a response's tokens counts as active in it."""
    return rate > 0 if activity == "any" else rate >= 0.5


@dataclass(frozen=True)
class ActiveLatents:
    """In which of a set of responses the SAE's latents are active: all that selection asks, in a twelfth of the space of a
    :class:`LatentSummary`.

    Attributes:
        bits: ``[n, 2, ceil(d_sae / 8)]`` uint8, a bit for each latent as :func:`numpy.packbits` orders them: whether it is
            active by each of :data:`ACTIVITIES`.
        d_sae: number of latents of the SAE.
    """

    bits: np.ndarray
    d_sae: int

    @staticmethod
    def pack(rate: np.ndarray) -> np.ndarray:
        """``[n, 2, ceil(d_sae / 8)]`` uint8, from ``[n, d_sae]`` shares of responses' tokens at which each latent fires."""
        return np.packbits(np.stack([is_active(rate, activity) for activity in ACTIVITIES], axis=1), axis=2)

    @staticmethod
    def row_shape(d_sae: int) -> tuple[int, int]:
        """Of one response's bits."""
        return len(ACTIVITIES), -(-d_sae // 8)

    def take(self, rows: np.ndarray) -> ActiveLatents:
        """The responses ``rows``, in that order; neighbours share this one's memory, and cannot be written to."""
        run = _run(rows)
        return ActiveLatents(self.bits[rows] if run is None else _shared(self.bits, run), self.d_sae)

    def frequency(self, activity: Activity) -> np.ndarray:
        """``[d_sae]`` share of the responses in which each latent is active."""
        counts = np.zeros(self.d_sae, np.int64)
        for start in range(0, len(self.bits), 1024):  # some at a time: as bytes they are eight times as large
            one = self.bits[start : start + 1024, ACTIVITIES.index(activity)]
            counts += np.unpackbits(one, axis=1, count=self.d_sae).sum(0, dtype=np.int32)
        return counts / max(1, len(self.bits))


Latents = ActiveLatents | LatentSummary


@dataclass(frozen=True)
class Representations:
    """Pooled representations of ``n`` responses at one hook point.

    Attributes:
        pooling: ``last``: at the last token of the text, with which the template closes the response's turn; ``mean``:
            mean over the response's own tokens.
        h: ``[n, d]`` float32.
        n_tokens: ``[n]`` int32, response tokens.
        n_truncated: ``[n]`` int32, tokens cut from the left of the text.
        latents: in which responses the SAE's latents are active, where an SAE was given; and how strongly, where that was
            asked for.
    """

    pooling: Pooling
    h: np.ndarray
    n_tokens: np.ndarray
    n_truncated: np.ndarray
    latents: Latents | None = None

    @property
    def strengths(self) -> LatentSummary:
        """How strongly the latents fired.

        Raises:
            SparseRMError: these representations were computed without.
        """
        if not isinstance(self.latents, LatentSummary):
            raise SparseRMError(
                "these representations do not hold how strongly latents fired; represent the pairs with their SAE and "
                "strengths=True"
            )
        return self.latents

    def take(self, rows: np.ndarray) -> Representations:
        """The responses ``rows``, in that order; neighbours share this one's memory, and cannot be written to."""
        latents = self.latents.take(rows) if self.latents else None
        run = _run(rows)
        columns = (self.h, self.n_tokens, self.n_truncated)
        h, n_tokens, n_truncated = (column[rows] if run is None else _shared(column, run) for column in columns)
        return Representations(self.pooling, h, n_tokens, n_truncated, latents)


def _shared(column: np.ndarray, run: slice) -> np.ndarray:
    """A part of an array that nobody can change through it."""
    part = column[run]
    part.flags.writeable = False
    return part


def _run(rows: np.ndarray) -> slice | None:
    """The slice that rows are, where each is followed by the next."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return slice(int(rows[0]), int(rows[0]) + len(rows))
    return None


@dataclass(frozen=True)
class PairRepresentations:
    """Representations of ``n`` preference pairs at one hook point.

    Attributes:
        chosen, rejected: of the ``n`` chosen and rejected responses, in the order of the pairs.
        groups: ``[n]`` int64, the same number for pairs of the same prompt: what cross-validation must not split.
    """

    chosen: Representations
    rejected: Representations
    groups: np.ndarray

    @property
    def pooling(self) -> Pooling:
        """How ``h`` is pooled."""
        return self.chosen.pooling

    @property
    def differences(self) -> np.ndarray:
        """``[n, d]`` float32, chosen minus rejected."""
        return self.chosen.h - self.rejected.h

    @property
    def stacked(self) -> np.ndarray:
        """``[2n, d]``: all chosen responses, then all rejected ones."""
        return np.concatenate([self.chosen.h, self.rejected.h])

    @property
    def log_lengths(self) -> np.ndarray:
        """``[2n]`` float64, log of response tokens: all chosen responses, then all rejected ones."""
        return np.log(np.maximum(np.concatenate([self.chosen.n_tokens, self.rejected.n_tokens]), 1).astype(np.float64))

    @property
    def length_gaps(self) -> np.ndarray:
        """``[n]`` float64, log length of chosen minus rejected: ten tokens are much of twenty and little of two hundred."""
        chosen, rejected = self.log_lengths.reshape(2, -1)
        return chosen - rejected

    def take(self, rows: np.ndarray) -> PairRepresentations:
        """The pairs ``rows``, in that order."""
        return PairRepresentations(self.chosen.take(rows), self.rejected.take(rows), self.groups[rows])


@dataclass(frozen=True)
class FeatureStats:
    """Activation frequencies of every latent over training pairs (design, step 3; paper, section "preference features").

    Attributes:
        f_chosen, f_rejected: ``[d_sae]`` float64, share of chosen / rejected responses in which the latent is active.
    """

    f_chosen: np.ndarray
    f_rejected: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """``[d_sae]``, ``f_chosen - f_rejected``."""
        return self.f_chosen - self.f_rejected


@dataclass(frozen=True)
class RewardHead:
    """``r = sum_j weights_j (s_j - mu_j) / sigma_j + bias`` with ``s_j = <h - center, direction_j>`` (design, steps 4 and 5).

    Attributes:
        features: ``[K]`` int64 latent ids.
        directions: ``[K, d]`` float32 unit decoder directions.
        center: ``[d]`` float32, the SAE's ``b_dec`` (zeros where it has none).
        mu, sigma: ``[K]`` float64, mean and standard deviation of the scores over the training responses.
        weights: ``[K]`` float64.
        bias: added to every reward.
        pooling: how ``h`` is pooled over the response.
    """

    features: np.ndarray
    directions: np.ndarray
    center: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    weights: np.ndarray
    bias: float
    pooling: Pooling


@dataclass(frozen=True)
class Contribution:
    """One feature's part in one reward: ``contribution = weight * (score - mu) / sigma``."""

    feature: int
    label: str
    score: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """A reward and what it is made of: ``reward == sum(contributions) + bias``.

    Attributes:
        contributions: largest absolute contribution first.
        tokens: ``[T]`` the response's tokens as text; joined they give the response.
        token_contributions: ``[T, K]`` float64 in the head's feature order. Mean pooling: each token's share, so that the
            columns sum to the contributions and everything plus ``bias`` to the reward. Last pooling: the contributions
            read at that token instead of at the end of the turn.
        running_reward: ``[T]`` the reward of the response up to and with that token; with last pooling read at the token
            itself, so that the reward, read where the turn is closed, is close to its last value but not the same.
        features: ``[K]`` latent ids, the columns of ``token_contributions``.
        n_truncated: tokens cut from the left of the prompt.
        token_scores: ``[T, K]`` float64 alignment scores at each token.
        token_activations: ``[T, K]`` float32 activations of the features' latents, where an SAE was given.
    """

    reward: float
    bias: float
    contributions: tuple[Contribution, ...]
    tokens: tuple[str, ...]
    token_contributions: np.ndarray
    running_reward: np.ndarray
    features: np.ndarray
    n_truncated: int = 0
    token_scores: np.ndarray | None = None
    token_activations: np.ndarray | None = None


@dataclass(frozen=True)
class FeatureDifference:
    """One feature's part in a margin ``r(A) - r(B)``: ``contribution = weight * (score_a - score_b) / sigma``."""

    feature: int
    label: str
    score_a: float
    score_b: float
    weight: float
    contribution: float


@dataclass(frozen=True)
class Comparison:
    """Rewards of several responses to one prompt; ``margin`` and ``contributions`` compare the best with the next best,
    or the first with the second where there are two."""

    rewards: tuple[float, ...]
    ranking: tuple[int, ...]
    margin: float
    contributions: tuple[FeatureDifference, ...]


@dataclass(frozen=True)
class Evaluation:
    """How often a head ranks chosen above rejected; a tie counts as wrong (RewardBench's strict ``>``).

    ``ci95`` is a percentile bootstrap over prompts; ``length_baseline`` is the accuracy of "longer is better" (tokens).
    """

    accuracy: float
    ci95: tuple[float, float]
    n: int
    n_prompts: int
    length_baseline: float
    mean_margin: float
    n_truncated: int
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Detection:
    """How well a rule tells texts in which a latent fires strongly from texts in which it does not; chance is one half.

    Attributes:
        accuracy: balanced accuracy; as many texts are active as inactive.
        ci95: percentile bootstrap over prompts.
        auroc: of the rule's score, wherever the line is drawn.
        n, n_prompts: texts judged, none of which the rule was found on, and their prompts.
    """

    accuracy: float
    ci95: tuple[float, float]
    auroc: float
    n: int
    n_prompts: int

    def __str__(self) -> str:
        return f"{self.accuracy:.2f} ({self.ci95[0]:.2f} to {self.ci95[1]:.2f})"


@dataclass(frozen=True)
class AutoLabel:
    """A label that nobody wrote, or why there is none, with what it was made from.

    Attributes:
        text: the label; None where the evidence is too thin.
        reason: why there is none, empty where there is one.
        source: ``rule``, or the name of the model that was asked.
        data, data_hash: the pairs' name and content hash.
        n_firing, n_texts: in how many of the different responses the latent fires.
        terms: what the rule found; a text that has one of them is called active.
        promoted: those of the terms that the latent's direction also promotes (logit lens).
        detection: of the label, where it came to that.
        examples: of the latent's top examples: a text is called active where it is more like them than like others.
        prompt: what the model was asked, empty for the rule.
    """

    text: str | None
    reason: str
    source: str
    data: str
    data_hash: str
    n_firing: int
    n_texts: int
    terms: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    detection: Detection | None = None
    examples: Detection | None = None
    prompt: str = ""

    @property
    def shown(self) -> str:
        """E.g. ``negations (auto 0.89)``, or ``unlabelled: fires in 3 of 1,200 responses``."""
        if self.text is None or self.detection is None:
            return f"unlabelled: {self.reason}"
        return f"{self.text} (auto {self.detection.accuracy:.2f})"
