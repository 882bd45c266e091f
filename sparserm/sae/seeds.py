"""Stability of an SAE's latents over seeds: which of them SAEs trained with other seeds have too.

Latents that come back carry most of what a reward model predicts; those that do not are often rare surface triggers (Gerasimov
et al., 2026, arXiv 2606.12138).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparserm.sae.autoencoder import FINGERPRINT, SparseAutoencoder, find_sae
from sparserm.sae.formats import read_config
from sparserm.support.files import write_json
from sparserm.support.parsing import parse_json
from sparserm.types import SparseRMError

#: A latent is found again in another SAE where a decoder direction has this cosine with its own, ...
SAME_DIRECTION = 0.9
#: ... or where a latent's activations have this correlation with its own over tokens.
SAME_FIRING = 0.8

#: File beside an SAE's weights.
FILE = "seeds.json"
#: Tokens encoded at a time.
_ROWS = 4096


@dataclass(frozen=True)
class SeedStability:
    """How many of the SAEs of other seeds have each latent; arrays are ``[d_sae]`` shares.

    Attributes:
        seeds: number of other SAEs.
        direction: share with a decoder direction of cosine :data:`SAME_DIRECTION` or more.
        firing: share with a latent whose activations correlate :data:`SAME_FIRING` or more.
    """

    seeds: int
    direction: np.ndarray
    firing: np.ndarray

    def __str__(self) -> str:
        """Of the whole SAE: ``61% of latents (direction), 74% (firing), 2 other seeds``."""
        seeds = f"{self.seeds} other seed{'s' * (self.seeds != 1)}"
        return f"{self.direction.mean():.0%} of latents (direction), {self.firing.mean():.0%} (firing), {seeds}"

    def of(self, latent: int) -> str:
        """Of one latent: ``in 2 of 2 other seeds (direction), 1 of 2 (firing)``."""
        found = [round(self.seeds * float(share[latent])) for share in (self.direction, self.firing)]
        seeds = f"other seed{'s' * (self.seeds != 1)}"
        return f"in {found[0]} of {self.seeds} {seeds} (direction), {found[1]} of {self.seeds} (firing)"

    def figures(self) -> dict[str, float]:
        """Of the whole SAE, for tables and JSON: the number of seeds, and the share of latents found, mean over seeds."""
        return {"seeds": self.seeds, "seeds_direction": float(self.direction.mean()), "seeds_firing": float(self.firing.mean())}


def measure_seeds(sae: SparseAutoencoder, others: Sequence[SparseAutoencoder], states: np.ndarray) -> SeedStability:
    """Look for each latent in SAEs of other seeds.

    Args:
        others: SAEs of the same hook point, trained with other seeds.
        states: ``[n, d_in]`` representations at single tokens, which none of the SAEs needs to have been trained on.

    Raises:
        SparseRMError: there are no others, or one reads another hook point.
    """
    if not others or any(other.hook != sae.hook or other.d_in != sae.d_in for other in others):
        hooks = ", ".join(other.hook.name for other in others) or "none"
        raise SparseRMError(f"got SAEs of other seeds at {hooks}; expected one or more at {sae.hook.name}; give these")
    direction = [(sae.directions() @ other.directions().T).amax(1) >= SAME_DIRECTION for other in others]
    firing = [_correlations(sae, other, states).amax(1) >= SAME_FIRING for other in others]
    return SeedStability(len(others), _share(direction), _share(firing))


def save_seeds(found: SeedStability, folder: Path) -> None:
    """Write the stability beside the weights of its SAE."""
    shares = {name: np.round(getattr(found, name), 4).tolist() for name in ("direction", "firing")}
    write_json(folder / FILE, {"seeds": found.seeds, **shares})


def read_seeds(folder: Path, d_sae: int) -> SeedStability | None:
    """Read what :func:`save_seeds` wrote; None where it is missing, damaged or of another SAE."""
    try:
        value = parse_json((folder / FILE).read_bytes())
        found = SeedStability(int(value["seeds"]), *(np.array(value[name], np.float64) for name in ("direction", "firing")))
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError):
        return None
    sound = all(one.shape == (d_sae,) and ((one >= 0) & (one <= 1)).all() for one in (found.direction, found.firing))
    return found if sound else None


def seeds_of(sae: str, fingerprint: str, d_sae: int) -> SeedStability | None:
    """The stability of an SAE on this machine by the name or folder that a head gives; None where it is not known.

    Args:
        fingerprint, d_sae: of the SAE that is meant; another one may have taken its name. Its configuration tells, so that no
            weights are read; that of an SAE which was not trained here does not.
    """
    try:
        folder = find_sae(sae)
        config = None if folder is None else read_config(folder, sae)
    except SparseRMError:
        return None
    if folder is None or config is None or config.metadata.get(FINGERPRINT) != fingerprint:
        return None
    return read_seeds(folder, d_sae)


@torch.no_grad()
def _correlations(sae: SparseAutoencoder, other: SparseAutoencoder, states: np.ndarray) -> Tensor:
    """``[d_sae, d_sae]`` Pearson correlations of the activations of two SAEs' latents; 0 for those that never fire."""
    sums = [torch.zeros(one.d_sae, dtype=torch.float64) for one in (sae, other)]
    squares = [torch.zeros(one.d_sae, dtype=torch.float64) for one in (sae, other)]
    products = torch.zeros(sae.d_sae, other.d_sae, dtype=torch.float64)
    for start in range(0, len(states), _ROWS):
        h = torch.from_numpy(np.array(states[start : start + _ROWS], np.float32))
        z = [one.encode(h) for one in (sae, other)]
        for side, own in enumerate(z):
            sums[side] += own.sum(0, dtype=torch.float64)
            squares[side] += own.pow(2).sum(0, dtype=torch.float64)
        products += (z[0].T @ z[1]).double()
    n = max(1, len(states))
    spread = [(square / n - (total / n) ** 2).clamp(min=0).sqrt() for square, total in zip(squares, sums, strict=True)]
    covariance = products / n - torch.outer(sums[0] / n, sums[1] / n)
    return covariance / torch.outer(*spread).clamp(min=1e-12)


def _share(found: Sequence[Tensor]) -> np.ndarray:
    return np.asarray(torch.stack(list(found)).double().mean(0).numpy())
