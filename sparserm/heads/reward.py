"""The reward head: Bradley-Terry weights over standardised alignment scores (SparseRM, arXiv 2511.07896)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparserm.representations.values import PairRepresentations, Representations
from sparserm.types import HookPoint, Pooling, Score

if TYPE_CHECKING:
    from sparserm.sae.autoencoder import SparseAutoencoder

#: Rows of representations converted to float64 at a time.
_ROWS = 1024


@dataclass(frozen=True)
class ScoreMoments:
    """Mean and standard deviation of alignment scores over responses.

    Attributes:
        mu: ``[K]`` float64.
        sigma: ``[K]`` float64, 1 where the scores are constant, so that dividing by it is always safe.
    """

    mu: np.ndarray
    sigma: np.ndarray


@dataclass(frozen=True)
class Encoder:
    """The part of an SAE's encoder that tells where a head's features fire.

    Attributes:
        hook: where the SAE's input is read.
        sae_fingerprint, d_sae: of the whole SAE.
        architecture, normalize_activations, apply_b_dec_to_input, max_norm: as in
            :class:`~sparserm.sae.autoencoder.SparseAutoencoder`.
        weights: float32, of the K features: ``W_enc [d, K]``, and ``[K]`` each, by architecture, ``b_enc``, ``threshold``,
            ``b_gate``, ``b_mag``, ``r_mag``.
    """

    hook: HookPoint
    sae_fingerprint: str
    d_sae: int
    architecture: str
    normalize_activations: str
    apply_b_dec_to_input: bool
    weights: Mapping[str, np.ndarray]
    max_norm: float | None = None

    @classmethod
    def of(cls, part: SparseAutoencoder) -> Encoder:
        """The encoder of a part of an SAE, see :meth:`~sparserm.sae.autoencoder.SparseAutoencoder.part`."""
        assert part.part_of is not None
        return cls(
            hook=part.hook,
            sae_fingerprint=part.part_of.fingerprint,
            d_sae=part.part_of.d_sae,
            architecture=part.architecture,
            normalize_activations=part.normalize_activations,
            apply_b_dec_to_input=part.apply_b_dec_to_input,
            weights={name: weight.numpy() for name, weight in part.weights.items() if name not in ("W_dec", "b_dec")},
            max_norm=part.max_norm,
        )


@dataclass(frozen=True)
class RewardHead:
    """A linear reward ``r = sum_j weights_j (s_j - mu_j) / sigma_j + bias`` of alignment scores ``s_j``.

    At one token the score is ``<h - center, direction_j>``, the paper's projection onto a decoder direction (SparseRM, arXiv
    2511.07896). That of a gated head is zero at the tokens where the feature does not fire, and ``mu`` is zero. With mean
    pooling a response's score is the mean over its tokens, with last pooling that of the last token.

    Attributes:
        features: ``[K]`` int64 latent ids.
        directions: ``[K, d]`` float32 unit decoder directions.
        center: ``[d]`` float32, the SAE's ``b_dec`` (zeros where it has none).
        mu, sigma: ``[K]`` float64, mean and standard deviation of the scores over the training responses.
        weights: ``[K]`` float64.
        bias: added to every reward.
        pooling: how ``h`` is pooled over the response.
        encoder: where the features of a gated head fire; None for projections.
        families: ``[K]`` int64, for each feature the leading one of its family, see
            :func:`~sparserm.heads.families.group_families`; None where features were not grouped.
    """

    features: np.ndarray
    directions: np.ndarray
    center: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    weights: np.ndarray
    bias: float
    pooling: Pooling
    encoder: Encoder | None = None
    families: np.ndarray | None = None

    @property
    def score(self) -> Score:
        """The kind of its alignment scores."""
        return "gated" if self.encoder else "projection"

    @functools.cached_property
    def leaders(self) -> np.ndarray:
        """``[K]`` int64, for each feature the one that leads its family: its own id where it stands alone.

        As ``families``, but by the weights as they are now, which may have been edited: features with weights of different
        signs are apart, and the one of largest absolute weight leads.
        """
        if self.families is None:
            return self.features
        found = self.features.copy()
        for family, sign in {*zip(self.families.tolist(), np.sign(self.weights).tolist(), strict=True)}:
            members = np.flatnonzero((self.families == family) & (np.sign(self.weights) == sign))
            found[members] = self.features[members[np.argmax(np.abs(self.weights[members]))]]
        return found

    def family(self, feature: int) -> tuple[int, ...]:
        """The features that fire together with this one of the head, itself among them, the leader first."""
        leader = self.leaders[self.features == feature][0]
        members = self.features[self.leaders == leader].tolist()
        return tuple(sorted(members, key=lambda one: one != leader))

    @functools.cached_property
    def gate(self) -> SparseAutoencoder | None:
        """The features as a part of their SAE, which tells where they fire; None for projections."""
        if self.encoder is None:
            return None
        import torch

        from sparserm.sae.autoencoder import PartOf, SparseAutoencoder

        own = self.encoder
        weights = {**own.weights, "W_dec": self.directions, "b_dec": self.center}
        return SparseAutoencoder(
            name="features of a head",
            architecture=own.architecture,
            hook=own.hook,
            model_name="",
            weights={name: torch.tensor(weight, dtype=torch.float32) for name, weight in weights.items()},
            normalize_activations=own.normalize_activations,
            apply_b_dec_to_input=own.apply_b_dec_to_input,
            max_norm=own.max_norm,
            part_of=PartOf(own.sae_fingerprint, own.d_sae, tuple(self.features.tolist())),
        )


def build_head(
    features: np.ndarray,
    directions: np.ndarray,
    center: np.ndarray,
    moments: ScoreMoments,
    weights: np.ndarray,
    pooling: Pooling,
    encoder: Encoder | None = None,
    families: np.ndarray | None = None,
) -> RewardHead:
    """Build a head with bias zero."""
    return RewardHead(
        features=np.asarray(features, np.int64),
        directions=np.asarray(directions, np.float32),
        center=np.asarray(center, np.float32),
        mu=moments.mu,
        sigma=moments.sigma,
        weights=np.asarray(weights, np.float64),
        bias=0.0,
        pooling=pooling,
        encoder=encoder,
        families=families,
    )


def rewards(head: RewardHead, responses: Representations) -> np.ndarray:
    """``[n]`` float64 rewards of responses, pooled as the head expects."""
    return contributions(head, head_scores(head, responses)).sum(-1) + head.bias


def reward_margins(head: RewardHead, pairs: PairRepresentations) -> np.ndarray:
    """``[n]`` float64 rewards of the chosen minus the rejected responses."""
    return rewards(head, pairs.chosen) - rewards(head, pairs.rejected)


def contributions(head: RewardHead, scores: np.ndarray) -> np.ndarray:
    """``[..., K]`` float64 contributions ``w_j (s_j - mu_j) / sigma_j`` for ``scores [..., K]``; their sum plus the bias is the
    reward."""
    return np.asarray(head.weights * (scores - head.mu) / head.sigma + 0.0)  # + 0.0: no negative zeros


def head_scores(head: RewardHead, responses: Representations) -> np.ndarray:
    """``[n, K]`` float64 alignment scores of the head's features in responses, pooled as the head expects.

    Raises:
        SparseRMError: the head is gated, and the responses have no latent strengths; represent them with
            :attr:`~sparserm.heads.saved.SavedHead.saes`.
    """
    if head.encoder and head.pooling == "mean":
        return responses.by_latent.dense_gated(head.features)
    return token_scores(head, responses.h)


def token_scores(head: RewardHead, h: np.ndarray) -> np.ndarray:
    """``[..., K]`` float64 alignment scores of the head's features at single tokens ``h [..., d]``."""
    scores = alignment_scores(h, head.directions, head.center)
    return scores if head.gate is None else np.where(token_activations(head, h) > 0, scores, 0.0)


def token_activations(head: RewardHead, h: np.ndarray) -> np.ndarray:
    """``[..., K]`` float32 activations of a gated head's features at single tokens ``h [..., d]``."""
    import torch

    assert head.gate is not None
    # A copy: PyTorch warns of arrays that cannot be written to, as contiguous rows of representations.
    return np.asarray(head.gate.encode(torch.from_numpy(np.array(h, np.float32))).numpy())


def alignment_scores(h: np.ndarray, directions: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Alignment scores ``s_j = <h - center, d_j>``.

    Args:
        h: ``[..., d]``.
        directions: ``[K, d]`` of unit norm.
        center: ``[d]``, the SAE's ``b_dec``.

    Returns:
        ``[..., K]`` float64. Accumulated in double precision, so that a reward does not depend on the batch.
    """
    d = directions.astype(np.float64).T
    offset = center.astype(np.float64) @ d
    rows = h.reshape(-1, h.shape[-1])
    scores = np.empty((len(rows), d.shape[1]))
    for start in range(0, len(rows), _ROWS):  # a float64 copy of all rows would take twice their memory
        scores[start : start + _ROWS] = rows[start : start + _ROWS].astype(np.float64) @ d - offset
    return scores.reshape(*h.shape[:-1], d.shape[1])


def score_moments(h: np.ndarray, directions: np.ndarray, center: np.ndarray) -> ScoreMoments:
    """Moments of the alignment scores over ``h [n, d]``, without computing the scores ``[n, K]``."""
    mean = h.mean(0, dtype=np.float64)
    return projected_moments(mean, second_moments(h - mean.astype(h.dtype)), directions, center)


def projected_moments(mean: np.ndarray, covariance: np.ndarray, directions: np.ndarray, center: np.ndarray) -> ScoreMoments:
    """Moments of the alignment scores from those of the representations: the variance of ``<h, d>`` is ``d' Cov(h) d``.

    Args:
        mean: ``[d]`` float64, of the representations.
        covariance: ``[d, d]``, of the representations.
    """
    mu = directions.astype(np.float64) @ (mean - center)
    single = covariance.astype(np.float32)
    variance = np.einsum("kd,kd->k", directions @ single, directions).astype(np.float64)
    # Rounding can turn a variance of zero into a small number of either sign; it is compared with the sum of the variances of
    # the single dimensions.
    flat = variance <= 1e-6 * (directions**2 @ single.diagonal())
    return ScoreMoments(mu, np.where(flat, 1.0, np.sqrt(np.maximum(variance, 0))))


def second_moments(x: np.ndarray) -> np.ndarray:
    """``[d, d]`` float64 ``X'X / n`` of ``x [n, d]``, summed in the precision of ``x`` (float32: half the time, six digits)."""
    return np.asarray((x.T @ x).astype(np.float64) / len(x))
