"""Statistics of every SAE latent on preference pairs: activation frequencies, tests of the gap, correlations, opening shares.

All latents are computed at once with sparse matrix products. Pairs of one prompt are not independent (they often share a
response); all intervals and tests account for that, and reduce to the textbook ones where each prompt has a single pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sparserm.backbone.model import Backbone
from sparserm.evaluation.intervals import wilson_interval
from sparserm.heads.reward import score_moments
from sparserm.representations.values import LatentSummary, PairRepresentations, Representations, is_active
from sparserm.types import Activity, PreferencePair, Progress, Score, SparseRMError, TokenizedText

if TYPE_CHECKING:
    from sparserm.sae.autoencoder import SparseAutoencoder

#: A latent is dense if it fires at more than this share of the response tokens (the threshold of Sun et al., 2025, "Dense SAE
#: Latents Are Features, Not Bugs").
DENSE_RATE = 0.1
#: A latent is begin-of-text if at least this share of its firings is on the first token of a response.
OPENING_SHARE = 0.5
#: Number of responses sampled by :func:`measure_openings`, spread evenly over the pairs.
SAMPLE = 200
#: Minimum number of firings in the sample for a latent's opening share; below it the share is set to 0.
MIN_FIRINGS = 5


@dataclass(frozen=True)
class FeatureTable:
    """Statistics of every latent on preference pairs; all arrays are ``[d_sae]``.

    Attributes:
        n_pairs, n_prompts: number of pairs and of their prompts.
        f_chosen, f_rejected: share of chosen / rejected responses in which the latent is active.
        chosen_low, chosen_high, rejected_low, rejected_high: 95 % Wilson intervals of ``f_chosen`` and ``f_rejected``.
        p: p-value of the paired test of the gap.
        q: p-value corrected for the number of latents that fire (Benjamini and Hochberg, 1995).
        score_gap: mean alignment score of chosen minus rejected, in standard deviations of the score. A head multiplies it by
            the weight. Its sign may differ from that of the gap with projections.
        length_correlation: Pearson correlation of the alignment score with the log of the response's length in tokens.
        share: share of all responses in which the latent fires.
        rate: share of all response tokens at which it fires.
        mean_peak: mean of its peak activations over the responses in which it fires.
        opening: share of its firings on the first token of a response; NaN where that was not measured.
    """

    n_pairs: int
    n_prompts: int
    f_chosen: np.ndarray
    f_rejected: np.ndarray
    chosen_low: np.ndarray
    chosen_high: np.ndarray
    rejected_low: np.ndarray
    rejected_high: np.ndarray
    p: np.ndarray
    q: np.ndarray
    score_gap: np.ndarray
    length_correlation: np.ndarray
    share: np.ndarray
    rate: np.ndarray
    mean_peak: np.ndarray
    opening: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """Preference gaps ``f_chosen - f_rejected``."""
        return self.f_chosen - self.f_rejected

    @property
    def dense(self) -> np.ndarray:
        """Whether the latent fires at more than :data:`DENSE_RATE` of the response tokens."""
        return self.rate > DENSE_RATE

    @property
    def dead(self) -> np.ndarray:
        """Whether the latent fires in none of the responses."""
        return self.share == 0

    @property
    def begin_of_text(self) -> np.ndarray:
        """Whether at least :data:`OPENING_SHARE` of its firings are on the first token; False where that was not measured."""
        return np.nan_to_num(self.opening) >= OPENING_SHARE


def feature_table(
    pairs: PairRepresentations,
    sae: SparseAutoencoder,
    *,
    activity: Activity = "any",
    opening: np.ndarray | None = None,
    score: Score = "projection",
) -> FeatureTable:
    """Compute the statistics of every latent of ``sae`` on ``pairs``.

    The gap is tested with McNemar's test with the mid-p correction (Fagerland et al., 2013) over prompts: a prompt counts for
    the side on which the latent is active in more of its responses. With one pair per prompt this is the usual test. With
    several pairs per prompt it remains valid at some loss of power, while a test that assumes independent pairs does not.

    Args:
        opening: ``[d_sae]`` from :func:`measure_openings`.
        score: kind of the alignment scores.

    Raises:
        SparseRMError: there are no pairs, or the representations were computed without this SAE.
    """
    chosen, rejected = _latents(pairs.chosen, sae), _latents(pairs.rejected, sae)
    n = len(pairs.groups)
    if n == 0:
        raise SparseRMError("there are no pairs to compute feature statistics from; give at least one")
    prompts = _prompt_matrix(pairs.groups)
    active = [_active(latents, activity) for latents in (chosen, rejected)]
    f_chosen, f_rejected = (np.asarray(side.sum(0)).ravel() / n for side in active)
    bounds = [_clustered_wilson(f, prompts @ side, prompts) for f, side in zip((f_chosen, f_rejected), active, strict=True)]
    p = _mid_p_mcnemar(prompts @ (active[0] - active[1]), sae.d_sae)
    counts = np.bincount(chosen.indices, minlength=sae.d_sae) + np.bincount(rejected.indices, minlength=sae.d_sae)
    peaks = sum(np.bincount(one.indices, weights=one.peak, minlength=sae.d_sae) for one in (chosen, rejected))
    return FeatureTable(
        n_pairs=n,
        n_prompts=prompts.shape[0],
        f_chosen=f_chosen,
        f_rejected=f_rejected,
        chosen_low=bounds[0][0],
        chosen_high=bounds[0][1],
        rejected_low=bounds[1][0],
        rejected_high=bounds[1][1],
        p=p,
        q=_false_discovery(p, counts > 0),
        **(_of_gated_scores(pairs, sae) if score == "gated" else _of_scores(pairs, sae)),
        share=counts / (2 * n),
        rate=_token_rate(pairs, sae.d_sae),
        mean_peak=peaks / np.maximum(counts, 1),
        opening=np.full(sae.d_sae, np.nan) if opening is None else opening,
    )


def measure_openings(
    texts: Sequence[PreferencePair],
    pairs: PairRepresentations,
    backbone: Backbone,
    sae: SparseAutoencoder,
    *,
    progress: Progress | None = None,
) -> np.ndarray:
    """``[d_sae]`` share of each latent's firings that are on the first token of a response, over a sample of responses.

    The total number of firings is known from the representations. The backbone reads the sampled texts only up to the first
    response token, once for responses that begin alike. A latent that fires fewer than :data:`MIN_FIRINGS` times in the sample
    gets 0.

    Raises:
        SparseRMError: the representations are not of these pairs, or have no activation strengths.
    """
    sides = [pairs.chosen, pairs.rejected]
    if len(texts) != len(pairs.groups):
        raise SparseRMError(
            f"got {len(texts)} pairs and representations of {len(pairs.groups)}; expected the same number; compute the "
            "representations of these pairs"
        )
    rows = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), SAMPLE // 2)).round().astype(int))
    counts: dict[TokenizedText, int] = {}
    everywhere = np.zeros(sae.d_sae)
    for name, side in zip(("chosen", "rejected"), sides, strict=True):
        part = side.take(rows)
        latents = part.strengths
        lengths = np.repeat(part.n_tokens, np.diff(latents.indptr))
        everywhere += np.bincount(latents.indices, weights=latents.rate * lengths, minlength=sae.d_sae)
        for row in rows:
            whole = backbone.tokenize(texts[row].prompt, getattr(texts[row], name))
            first = TokenizedText(whole.ids[: whole.start + 1], whole.start, whole.start + 1, whole.n_truncated)
            counts[first] = counts.get(first, 0) + 1
    beginnings, near = list(counts), sae.to(backbone.device)
    read = dict(backbone.hidden_states(beginnings, [sae.hook], progress=progress))
    # All at once: for each of them alone the encoder would be read again.
    z = near.encode(torch.stack([read[i][sae.hook][0] for i in range(len(beginnings))]))
    at_first = np.array(list(counts.values())) @ (z > 0).cpu().numpy()
    everywhere = everywhere.round()  # the rates are stored in single precision
    return np.divide(at_first, everywhere, out=np.zeros(sae.d_sae), where=everywhere >= MIN_FIRINGS)


def _latents(side: Representations, sae: SparseAutoencoder) -> LatentSummary:
    latents = side.strengths
    if latents.d_sae != sae.d_sae:
        raise SparseRMError(
            f"these representations have {latents.d_sae} latents, expected the {sae.d_sae} of SAE {sae.name}; compute the "
            "representations with this SAE"
        )
    return latents


def _active(latents: LatentSummary, activity: Activity) -> Any:
    """``[n, d_sae]`` sparse, 1 where the latent counts as active in the response."""
    from scipy.sparse import csr_matrix

    values = is_active(latents.rate, activity).astype(np.int32)
    shape = (len(latents.indptr) - 1, latents.d_sae)
    matrix = csr_matrix((values, latents.indices, latents.indptr), shape=shape, copy=True)  # changed in place below
    matrix.eliminate_zeros()
    return matrix


def _prompt_matrix(groups: np.ndarray) -> Any:
    """``[prompts, n]`` sparse indicator of each pair's prompt; multiplying by it sums over the pairs of each prompt."""
    from scipy.sparse import csr_matrix

    _, numbers = np.unique(groups, return_inverse=True)
    rows = np.arange(len(groups))
    return csr_matrix((np.ones(len(groups), np.int32), (numbers, rows)), shape=(numbers.max() + 1, len(groups)))


def _clustered_wilson(f: np.ndarray, sums: Any, prompts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Wilson intervals with the effective sample size in place of the number of responses.

    The effective sample size is ``n`` divided by the design effect (Kish, 1965): the variance of ``f`` between prompts over the
    variance for independent responses. Where all responses agree it cannot be estimated, and the responses to a prompt are
    treated as copies of one another.

    Args:
        f: ``[d_sae]`` share of responses.
        sums: ``[prompts, d_sae]`` sparse, number of active responses of each prompt.
        prompts: from :func:`_prompt_matrix`.
    """
    sizes = np.asarray(prompts.sum(1)).ravel().astype(np.float64)
    n = sizes.sum()
    squares = np.asarray(sums.multiply(sums).sum(0)).ravel()
    products = sums.T @ sizes
    between = squares - 2 * f * products + f**2 * (sizes**2).sum()  # sum over prompts of (sum - f size)^2
    independent = n * f * (1 - f)
    copies = (sizes**2).sum() / n
    effect = np.divide(between, independent, out=np.full(len(f), copies), where=independent > 1e-9)
    return wilson_interval(f, n / np.clip(effect, 1.0, copies))


def _mid_p_mcnemar(net: Any, d_sae: int) -> np.ndarray:
    """``[d_sae]`` two-sided mid-p values from ``net [prompts, d_sae]``, active chosen minus active rejected responses."""
    from scipy.stats import binom

    net = net.tocsr()
    net.eliminate_zeros()
    up = np.bincount(net.indices[net.data > 0], minlength=d_sae)
    down = np.bincount(net.indices[net.data < 0], minlength=d_sae)
    fewer, both = np.minimum(up, down), up + down
    return np.minimum(2 * binom.cdf(fewer, both, 0.5) - binom.pmf(fewer, both, 0.5), 1.0)


def _false_discovery(p: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """``[d_sae]`` q-values; dead latents are not counted as hypotheses and get 1."""
    from scipy.stats import false_discovery_control

    q = np.ones(len(p))
    if alive.any():
        q[alive] = false_discovery_control(p[alive])
    return q


def _of_scores(pairs: PairRepresentations, sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    """Statistics of the alignment scores from moments of ``h``, without computing the scores ``[2n, d_sae]``."""
    directions = sae.directions().cpu().numpy()
    stacked = pairs.stacked
    sigma = score_moments(stacked, directions, sae.b_dec.cpu().numpy()).sigma
    length = pairs.log_lengths - pairs.log_lengths.mean()
    covariance = (stacked - stacked.mean(0, dtype=np.float64)).T @ length / len(length)
    return {
        "score_gap": directions @ pairs.differences.mean(0, dtype=np.float64) / sigma,
        "length_correlation": np.clip(directions @ covariance / (sigma * max(float(length.std()), 1e-12)), -1, 1),
    }


def _of_gated_scores(pairs: PairRepresentations, sae: SparseAutoencoder) -> dict[str, np.ndarray]:
    """The same statistics of gated scores, which are zero where a latent is silent."""
    from sparserm.heads.screening import GatedScores  # imports scipy

    scores = GatedScores.of(pairs, sae)
    sigma = scores.spread(np.arange(sae.d_sae))
    length = pairs.log_lengths - pairs.log_lengths.mean()
    chosen, rejected = length.reshape(2, -1)
    covariance = (scores.chosen.T @ chosen + scores.rejected.T @ rejected) / len(length)
    gap = np.asarray(scores.chosen.mean(0) - scores.rejected.mean(0)).ravel()
    return {
        "score_gap": gap / sigma,
        "length_correlation": np.clip(covariance / (sigma * max(float(length.std()), 1e-12)), -1, 1),
    }


def _token_rate(pairs: PairRepresentations, d_sae: int) -> np.ndarray:
    """``[d_sae]`` share of all response tokens at which each latent fires."""
    fired, tokens = np.zeros(d_sae), 0
    for side in (pairs.chosen, pairs.rejected):
        latents = side.strengths
        lengths = np.repeat(side.n_tokens, np.diff(latents.indptr))
        fired += np.bincount(latents.indices, weights=latents.rate * lengths, minlength=d_sae)
        tokens += int(side.n_tokens.sum())
    return fired / max(tokens, 1)
