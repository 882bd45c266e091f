"""Automatic feature labels from a local rule or a language model; a label is used only if its detection score is high enough.

The rule works on *terms*: words, pairs of words, how a response begins and ends, and the surface features of
:mod:`sparserm.audit.surface`. Candidates are the terms that are more frequent in active than in inactive texts, by the log-odds
ratio with an informative Dirichlet prior (Monroe, Colaresi and Quinn, 2008, "Fightin' Words", eq. 22), the words at which the
latent fires, and those that its direction promotes. A few of them are selected greedily, so that "has one of them" best
separates active from inactive texts.

A label is judged on texts of held-out prompts (:mod:`sparserm.features.detection`). If it fails, the reason is shown instead.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sparserm.audit.surface import MARKS
from sparserm.features.cache import FeatureStore
from sparserm.features.detection import LEAST_TEXTS, Contrast, ResponseTexts, contrast, detection, example_scores, gather_texts
from sparserm.features.firing import FiresAt, find_firings
from sparserm.features.logit_lens import load_unembedding, logit_lens
from sparserm.heads.labels import RULE, AutoLabel, Detection, save_auto_label
from sparserm.model import SparseRM
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import PreferenceData, Progress, SparseRMError

if TYPE_CHECKING:
    from sparserm.features.logit_lens import LogitLens

#: A label is reliable where the lower end of the interval of its detection score is above this. Chance is 0.5; among a few
#: dozen features some labels exceed that by luck, and one that is right three times in five is nearly useless.
LEAST_DETECTION = 0.6
#: Maximum number of terms of a label, and the balanced accuracy that each must add on the labelling half.
MOST_TERMS, LEAST_GAIN = 4, 0.02
#: Minimum z-score of the log-odds ratio of a candidate, and maximum number of candidates.
LEAST_Z, MOST_CANDIDATES = 1.96, 300
#: Minimum number of texts with a term, and total count of the Dirichlet prior.
LEAST_COUNT, PRIOR = 5, 1000.0


class Unlabelled(SparseRMError):
    """Raised by a labeller that finds no label for a latent; the message is the reason."""


@dataclass(frozen=True)
class LabelContext:
    """The information about a latent that a labeller may use.

    Attributes:
        texts: all responses; only those of ``found.find`` and ``found.top`` may be used.
        found: active and inactive texts of the latent.
        promoted: tokens that the latent's direction promotes, as text, strongest first.
        fires_at: where it fires in a sample of the responses of the labelling half.
    """

    texts: ResponseTexts
    found: Contrast
    promoted: tuple[str, ...]
    fires_at: FiresAt


@dataclass(frozen=True)
class Proposal:
    """A proposed label, before it is judged on held-out prompts.

    Attributes:
        text: the label.
        scores: maps rows ``[m]`` of the texts to ``[m]`` scores, above zero where the label predicts that the latent fires.
        terms, promoted, prompt: as in :class:`~sparserm.heads.labels.AutoLabel`.
    """

    text: str
    scores: Callable[[np.ndarray], np.ndarray]
    terms: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    prompt: str = ""


class Labeller(Protocol):
    """Proposes labels for latents."""

    @property
    def source(self) -> str:
        """``rule``, or the name of a language model."""

    @property
    def most_judged(self) -> int | None:
        """Maximum number of texts to judge a label on, where judging is expensive; None for no limit."""

    def propose(self, context: LabelContext) -> Proposal:
        """Propose a label for one latent.

        Raises:
            Unlabelled: no label was found.
        """


class Rule:
    """The local word rule; needs no network and no language model."""

    source = RULE
    most_judged = None

    def propose(self, context: LabelContext) -> Proposal:
        """Propose the terms that best separate active from inactive texts of the labelling half."""
        texts, find = context.texts, context.found.find
        names, has = _term_matrix(texts)
        z = log_odds(has[find.rows[find.active]], has[find.rows[~find.active]], has[texts.finding])
        promoted = {f"“{word}”" for token in context.promoted for word in _words(token)}
        fires_on = {f"“{word}”" for shown, _ in context.fires_at.words for word in _words(shown)}
        ranked = np.argsort(-z, kind="stable")[:MOST_CANDIDATES]
        agreeing = np.flatnonzero(np.isin(names, sorted(promoted | fires_on)) & (z > 0))
        candidates = np.union1d(ranked[z[ranked] >= LEAST_Z], agreeing)
        candidates = candidates[np.lexsort((np.char.str_len(names[candidates]), -z[candidates]))]  # of ties, shorter first
        chosen = candidates[choose_terms(has[find.rows][:, candidates].toarray() > 0, find.active)]
        if len(chosen) == 0:
            raise Unlabelled("no word or surface feature separates active from inactive texts")
        terms = tuple(str(names[j]) for j in chosen)
        return Proposal(
            text=", ".join(terms),
            scores=lambda rows: np.asarray(has[rows][:, chosen].sum(1)).ravel(),
            terms=terms,
            promoted=tuple(term for term in terms if term in promoted),
        )


def label_head(
    model: SparseRM, data: PreferenceData, labeller: Labeller, progress: Progress | None = None
) -> dict[int, AutoLabel]:
    """Label every feature of a head; each label is saved as soon as it is made, unless there is a better one.

    Returns:
        The labels that are shown from now on.

    Raises:
        SparseRMError: the SAE or the backbone cannot be used, or the labeller cannot be reached.
    """
    made = {}
    for feature, label in make_labels(model, data, labeller, progress):
        made[feature] = save_auto_label(model.card.sae_fingerprint, feature, label)
    return made


def make_labels(
    model: SparseRM, data: PreferenceData, labeller: Labeller, progress: Progress | None = None
) -> Iterator[tuple[int, AutoLabel]]:
    """Yield every feature of a head with its automatic label, without saving it.

    Raises:
        SparseRMError: the SAE or the backbone cannot be used, or the labeller cannot be reached.
    """
    sae = model.load_sae()
    model.load_backbone(progress)
    pairs = model.represent(data, sae=sae, strengths=True, progress=progress)
    features = model.head.features.tolist()
    texts = gather_texts(data.pairs, pairs)
    rows = texts.rows[texts.finding]
    firing = find_firings(features, data.pairs, pairs, rows, model.backbone, sae, progress=progress)
    return label_features(features, data, pairs, texts, labeller, firing, lens=_lens(model, data, sae), progress=progress)


def label_features(
    features: Sequence[int],
    data: PreferenceData,
    pairs: PairRepresentations,
    texts: ResponseTexts,
    labeller: Labeller,
    firing: Mapping[int, FiresAt],
    *,
    lens: LogitLens | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, AutoLabel]]:
    """Yield each of ``features`` with its automatic label; the backbone is not run.

    Args:
        pairs: representations of ``data``, with latents and activation strengths.
        texts: the distinct responses of ``data``.
        firing: where each of the features fires in texts of the labelling half, see
            :func:`~sparserm.features.firing.find_firings`.
        lens: logit lens of ``features``, in that order.

    Raises:
        SparseRMError: the representations have no activation strengths, or the labeller cannot be reached.
    """
    for place, feature in enumerate(features):
        promoted = tuple(str(token) for token in lens.promoted[place]) if lens else ()
        context = LabelContext(texts, contrast(texts.peaks(feature, pairs), texts), promoted, firing[feature])
        yield feature, _label(context, data, labeller)
        if progress:
            progress(place + 1, len(features), "Labels (features)")


def log_odds(active: Any, inactive: Any, every: Any) -> np.ndarray:
    """``[terms]`` z-scores of the log-odds ratio of each term, active against inactive (Monroe et al., 2008, eq. 16 to 22).

    Args:
        active, inactive, every: ``[texts, terms]`` sparse 0 or 1; the prior is proportional to the frequency in ``every``.
    """
    here, there, total = (np.asarray(one.sum(0), np.float64).ravel() for one in (active, inactive, every))
    prior = PRIOR * total / max(total.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # with a single term there are no others to compare with
        odds = [np.log((y + prior) / (y.sum() + PRIOR - y - prior)) for y in (here, there)]
        z = (odds[0] - odds[1]) / np.sqrt(1 / (here + prior) + 1 / (there + prior))
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def choose_terms(has: np.ndarray, active: np.ndarray) -> list[int]:
    """Select terms greedily so that "has one of them" classifies most texts correctly; ties go to the earlier term.

    Args:
        has: ``[m, terms]`` bool, whether each text has each term.
        active: ``[m]`` bool, as many True as False.

    Returns:
        Indices of the selected terms.
    """
    called, best = np.zeros(len(has), bool), 0.5
    chosen: list[int] = []
    while len(chosen) < MOST_TERMS and has.shape[1]:
        right = ((has | called[:, None]) == active[:, None]).mean(0)
        term = int(right.argmax())
        if right[term] < best + LEAST_GAIN:
            break
        chosen.append(term)
        called, best = called | has[:, term], float(right[term])
    return chosen


def terms_of(text: str) -> set[str]:
    """Terms of a text as they appear in a label: words, pairs of words, surface features, beginning and end."""
    text = text.replace("’", "'")
    words = _words(text)
    found = {f"“{word}”" for word in words} | {f"“{a} {b}”" for a, b in pairwise(words)}
    found |= {mark.name for mark in MARKS if mark.name != "words" and mark.pattern.search(text)}
    if words:
        found.add(f"begins with “{words[0]}”")
    if end := text.rstrip()[-1:]:
        found.add("ends without punctuation" if end.isalnum() else f"ends with “{end}”")
    return found


def _lens(model: SparseRM, data: PreferenceData, sae: SparseAutoencoder) -> LogitLens | None:
    """The logit lens of the head's features; None where the backbone's files have no unembedding: labels do not need it."""
    features = model.head.features
    known = FeatureStore(data.content_hash, sae.fingerprint, model.card.backbone_fingerprint).known_lens()
    if known is not None:
        return LogitLens(*(values[features] for values in vars(known).values()))
    try:
        return logit_lens(sae, load_unembedding(model.card.backbone_source), features)
    except SparseRMError:
        return None


def _label(context: LabelContext, data: PreferenceData, labeller: Labeller) -> AutoLabel:
    texts, found = context.texts, context.found
    made: dict[str, Any] = {
        "source": labeller.source,
        "data": data.name,
        "data_hash": data.content_hash,
        "n_firing": found.n_firing,
        "n_texts": len(texts.texts),
        "evidence": context.fires_at.evidence,
    }
    if found.too_few:
        return AutoLabel(None, _too_few(context), **made)
    made["examples"] = detection(example_scores(found.judge.rows, found, texts), found.judge, texts)
    try:
        proposal = labeller.propose(context)
        judged = found.judge.limited(labeller.most_judged) if labeller.most_judged else found.judge
        score = detection(proposal.scores(judged.rows), judged, texts)
    except Unlabelled as error:
        return AutoLabel(None, str(error), **made)
    made |= {"terms": proposal.terms, "promoted": proposal.promoted, "detection": score, "prompt": proposal.prompt}
    if score.ci95[0] <= LEAST_DETECTION:
        return AutoLabel(None, _too_weak(proposal, score), **made)
    return AutoLabel(proposal.text, "", **made)


def _too_few(context: LabelContext) -> str:
    found, n = context.found, len(context.texts.texts)
    fires = f"fires in {found.n_firing:,} of {n:,} responses"
    if found.n_firing < 4 * LEAST_TEXTS:  # half of them count as active, and half of these are held out
        return fires
    n_find, n_judge = len(found.find.rows) // 2, len(found.judge.rows) // 2
    return f"{fires}; too few others of similar length: {n_find} to find and {n_judge} to test a label, not {LEAST_TEXTS}"


def _too_weak(proposal: Proposal, score: Detection) -> str:
    return f"best guess: {proposal.text}; detection {score.accuracy:.2f}"


@functools.lru_cache(maxsize=1)
def _term_matrix(texts: ResponseTexts) -> tuple[np.ndarray, Any]:
    """Names ``[terms]`` of the terms of the labelling half, and ``[n, terms]`` sparse, whether each text has each term."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    finding = [text for text, found in zip(texts.texts, texts.finding, strict=True) if found]
    least = min(LEAST_COUNT, len(finding))
    counter = CountVectorizer(analyzer=lambda text: sorted(terms_of(text)), binary=True, min_df=least, dtype=np.int32)
    try:
        counter.fit(finding)
    except ValueError:  # no term is in enough texts
        return np.zeros(0, str), csr_matrix((len(texts.texts), 0), dtype=np.int32)
    return counter.get_feature_names_out().astype(str), counter.transform(texts.texts)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())
