"""Automatic labels: what a latent fires on, said by a local rule or by a model the user runs, and kept only if it predicts.

The rule looks for *terms*: words, pairs of words, how a response begins and ends, and the marks of ``surface``. Those that
active texts have more often than inactive ones, by the log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi
and Quinn, 2008, "Fightin' Words", eq. 22), are candidates, and with them the words that the latent's direction promotes.
From these a few are taken, one after the other, so that "has one of them" tells active from inactive texts best.

A label has to hold on texts of other prompts (see ``detection``); one that does not is not shown, and the reason is.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sparserm.audit.surface import MARKS
from sparserm.features.cache import FeatureStore
from sparserm.features.detection import LEAST_TEXTS, Contrast, ResponseTexts, contrast, detection, example_scores, gather_texts
from sparserm.features.logit_lens import load_unembedding, logit_lens
from sparserm.heads.labels import AutoLabel, Detection, save_auto_label
from sparserm.model import SparseRM
from sparserm.representations.values import PairRepresentations
from sparserm.sae.autoencoder import SparseAutoencoder
from sparserm.types import PreferenceData, Progress, SparseRMError

if TYPE_CHECKING:
    from sparserm.features.logit_lens import LogitLens


#: A label is shown where the lower end of its detection score's interval is above this. One half is chance; with a few dozen
#: features some labels pass that by luck, and one that is right three times in five says next to nothing.
LEAST_DETECTION = 0.6
#: Terms of a label at most, and how much balanced accuracy each has to add on the texts they are found on.
MOST_TERMS, LEAST_GAIN = 4, 0.02
#: Candidates have a log-odds ratio of so many standard errors, and are the first so many.
LEAST_Z, MOST_CANDIDATES = 1.96, 300
#: Texts that have a term, below which it is none; and the prior's weight in terms.
LEAST_COUNT, PRIOR = 5, 1000.0


class Unlabelled(SparseRMError):  # noqa: N818  (an outcome, with its reason)
    """A labeller has nothing to say of a latent."""


@dataclass(frozen=True)
class LabelContext:
    """What a labeller may look at.

    Attributes:
        texts: all responses; only those of ``found.find`` and ``found.top`` may be used.
        promoted: tokens that the latent's direction promotes, as text, the strongest first.
    """

    texts: ResponseTexts
    found: Contrast
    promoted: tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """A label that is still to be judged.

    Attributes:
        scores: gives ``[m]`` numbers for rows ``[m]`` of the texts, above zero where the label says that the latent fires.
        terms, promoted, prompt: as in :class:`~sparserm.heads.labels.AutoLabel`.
    """

    text: str
    scores: Callable[[np.ndarray], np.ndarray]
    terms: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    prompt: str = ""


class Labeller(Protocol):
    """Who says what a latent fires on."""

    @property
    def source(self) -> str:
        """``rule``, or a model's name."""

    @property
    def most_judged(self) -> int | None:
        """Texts that a label is judged by at most, where judging costs something."""

    def propose(self, evidence: LabelContext) -> Proposal:
        """A label for one latent.

        Raises:
            Unlabelled: there is nothing to say of it.
        """


class Rule:
    """The local rule; needs no network."""

    source = "rule"
    most_judged = None

    def propose(self, evidence: LabelContext) -> Proposal:
        """The terms that tell the texts of the finding half best."""
        texts, find = evidence.texts, evidence.found.find
        names, has = _term_matrix(texts)
        z = log_odds(has[find.rows[find.active]], has[find.rows[~find.active]], has[texts.finding])
        promoted = {f"“{word}”" for token in evidence.promoted for word in _words(token)}
        ranked = np.argsort(-z, kind="stable")[:MOST_CANDIDATES]
        agreeing = np.flatnonzero(np.isin(names, sorted(promoted)) & (z > 0))
        candidates = np.union1d(ranked[z[ranked] >= LEAST_Z], agreeing)
        candidates = candidates[np.lexsort((np.char.str_len(names[candidates]), -z[candidates]))]  # of equals the shorter
        chosen = candidates[choose_terms(has[find.rows][:, candidates].toarray() > 0, find.active)]
        if len(chosen) == 0:
            raise Unlabelled("no word or mark tells active from inactive texts")
        terms = tuple(str(names[j]) for j in chosen)
        return Proposal(
            text=", ".join(terms),
            scores=lambda rows: np.asarray(has[rows][:, chosen].sum(1)).ravel(),
            terms=terms,
            promoted=tuple(term for term in terms if term in promoted),
        )


def label_features(
    features: Sequence[int],
    data: PreferenceData,
    pairs: PairRepresentations,
    labeller: Labeller,
    *,
    lens: LogitLens | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[int, AutoLabel]]:
    """Each of ``features`` with its automatic label, one after the other; the language model is not run.

    Args:
        pairs: of ``data``, with latents.
        lens: of ``features``, in that order.

    Raises:
        SparseRMError: the representations do not hold how strongly latents fired, or the labeller cannot be asked.
    """
    texts = gather_texts(data.pairs, pairs)
    for place, feature in enumerate(features):
        promoted = tuple(str(token) for token in lens.promoted[place]) if lens else ()
        evidence = LabelContext(texts, contrast(texts.peaks(feature, pairs), texts), promoted)
        yield feature, _label(evidence, data, labeller)
        if progress:
            progress(place + 1, len(features), "Labels (features)")


def _label(evidence: LabelContext, data: PreferenceData, labeller: Labeller) -> AutoLabel:
    texts, found = evidence.texts, evidence.found
    made: dict[str, Any] = {
        "source": labeller.source,
        "data": data.name,
        "data_hash": data.content_hash,
        "n_firing": found.n_firing,
        "n_texts": len(texts.texts),
    }
    if found.too_few:
        return AutoLabel(None, _too_few(evidence), **made)
    made["examples"] = detection(example_scores(found.judge.rows, found, texts), found.judge, texts)
    try:
        proposal = labeller.propose(evidence)
        judged = found.judge.limited(labeller.most_judged) if labeller.most_judged else found.judge
        score = detection(proposal.scores(judged.rows), judged, texts)
    except Unlabelled as error:
        return AutoLabel(None, str(error), **made)
    made |= {"terms": proposal.terms, "promoted": proposal.promoted, "detection": score, "prompt": proposal.prompt}
    if score.ci95[0] <= LEAST_DETECTION:
        return AutoLabel(None, _too_weak(proposal, score), **made)
    return AutoLabel(proposal.text, "", **made)


def _too_few(evidence: LabelContext) -> str:
    found, n = evidence.found, len(evidence.texts.texts)
    fires = f"fires in {found.n_firing:,} of {n:,} responses"
    if found.n_firing < 4 * LEAST_TEXTS:  # half of them count as active, and half of these are for judging
        return fires
    matched = (len(found.find.rows) // 2, len(found.judge.rows) // 2)
    return f"{fires}, and few others are as long: {matched[0]} to learn from and {matched[1]} to judge by, not {LEAST_TEXTS}"


def _too_weak(proposal: Proposal, score: Detection) -> str:
    held = "no better than chance" if score.ci95[0] <= 0.5 else f"not surely above {LEAST_DETECTION:.2f}"
    return f"detects only {score}, {held}: {proposal.text}"


def log_odds(active: Any, inactive: Any, every: Any) -> np.ndarray:
    """``[terms]`` z-scores of the log-odds ratio of each term, active against inactive (Monroe et al., 2008, eq. 16 to 22).

    Args:
        active, inactive, every: ``[texts, terms]`` sparse 0 or 1; the prior goes by how often a term is in ``every`` text.
    """
    here, there, total = (np.asarray(one.sum(0), np.float64).ravel() for one in (active, inactive, every))
    prior = PRIOR * total / max(total.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a single term has no others to be held against
        odds = [np.log((y + prior) / (y.sum() + PRIOR - y - prior)) for y in (here, there)]
        z = (odds[0] - odds[1]) / np.sqrt(1 / (here + prior) + 1 / (there + prior))
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def choose_terms(has: np.ndarray, active: np.ndarray) -> list[int]:
    """Terms, one after the other, so that "has one of them" tells most texts; those before go before equals.

    Args:
        has: ``[m, terms]`` bool.
        active: ``[m]`` bool, as many True as False.
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
    """What can be said of a text without understanding it, in words that can stand in a label."""
    text = text.replace("’", "'")
    words = _words(text)
    found = {f"“{word}”" for word in words} | {f"“{a} {b}”" for a, b in pairwise(words)}
    found |= {mark.name for mark in MARKS if mark.name != "words" and mark.pattern.search(text)}
    if words:
        found.add(f"begins with “{words[0]}”")
    if end := text.rstrip()[-1:]:
        found.add("ends without punctuation" if end.isalnum() else f"ends with “{end}”")
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)*", text.lower())


@functools.lru_cache(maxsize=1)
def _term_matrix(texts: ResponseTexts) -> tuple[np.ndarray, Any]:
    """Names of the terms of the finding half, ``[terms]``, and which text has which: ``[n, terms]`` sparse."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    finding = [text for text, found in zip(texts.texts, texts.finding, strict=True) if found]
    least = min(LEAST_COUNT, len(finding))
    counter = CountVectorizer(analyzer=lambda text: sorted(terms_of(text)), binary=True, min_df=least, dtype=np.int32)
    try:
        counter.fit(finding)
    except ValueError:  # no term is in so many texts
        return np.zeros(0, str), csr_matrix((len(texts.texts), 0), dtype=np.int32)
    return counter.get_feature_names_out().astype(str), counter.transform(texts.texts)


def label_head(
    model: SparseRM, data: PreferenceData, labeller: Labeller, progress: Progress | None = None
) -> dict[int, AutoLabel]:
    """The automatic label of every feature of a head; each is kept as soon as it is there.

    Raises:
        SparseRMError: the SAE or the backbone cannot be used, or the labeller cannot be asked.
    """
    made = {}
    for feature, label in make_labels(model, data, labeller, progress):
        save_auto_label(model.card.sae_fingerprint, feature, label)
        made[feature] = label
    return made


def make_labels(
    model: SparseRM, data: PreferenceData, labeller: Labeller, progress: Progress | None = None
) -> Iterator[tuple[int, AutoLabel]]:
    """The same, one after the other, and nothing is kept."""
    sae = model.load_sae()
    model.load_backbone(progress)
    pairs = model.represent(data, sae=sae, strengths=True, progress=progress)
    features = model.head.features.tolist()
    return label_features(features, data, pairs, labeller, lens=_lens(model, data, sae), progress=progress)


def _lens(model: SparseRM, data: PreferenceData, sae: SparseAutoencoder) -> LogitLens | None:
    """Of the head's features; None where the backbone's files hold no unembedding: labels do without it."""
    features = model.head.features
    known = FeatureStore(data.content_hash, sae.fingerprint, model.card.backbone_fingerprint).known_lens()
    if known is not None:
        return LogitLens(*(values[features] for values in vars(known).values()))
    try:
        return logit_lens(sae, load_unembedding(model.card.backbone_source), features)
    except SparseRMError:
        return None
