"""Search by text: which latents fire on a text, strongest first, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparserm.types import Pooling, Prompt

if TYPE_CHECKING:
    from sparserm.backbone import Backbone
    from sparserm.sae import SparseAutoencoder


@dataclass(frozen=True)
class FiringText:
    """A response and the latents that fire on it.

    Attributes:
        tokens: ``[T]`` texts of the response's tokens; joined they give the response.
        features: ``[n]`` int64, the latents that fire at one token or more, largest activation first.
        activations: ``[T, n]`` float32.
        h: ``[d]`` float32, its pooled representation.
        n_truncated: tokens cut from the left of the prompt.
    """

    tokens: tuple[str, ...]
    features: np.ndarray
    activations: np.ndarray
    h: np.ndarray
    n_truncated: int

    @property
    def peaks(self) -> np.ndarray:
        """``[n]`` largest activation of each latent."""
        return self.activations.max(0, initial=0.0)

    def of(self, feature: int) -> np.ndarray:
        """``[T]`` activations of one latent, zeros where it is silent."""
        place = np.flatnonzero(self.features == feature)
        return self.activations[:, place[0]] if len(place) else np.zeros(len(self.tokens), np.float32)


def fire_on_text(prompt: Prompt, response: str, backbone: Backbone, sae: SparseAutoencoder, pooling: Pooling) -> FiringText:
    """Read a response to a prompt as the heads read it, and list the latents that fire in it.

    Raises:
        SparseRMError: the response is empty.
    """
    text = backbone.tokenize(prompt, response)
    ((_, states),) = backbone.hidden_states([text], [sae.hook])
    state = states[sae.hook]
    own = state[: text.end - text.start]
    z = sae.to(backbone.device).encode(own).cpu().numpy()
    peaks = z.max(0)
    features = np.argsort(-peaks, kind="stable")[: int((peaks > 0).sum())]
    h = (own.mean(0) if pooling == "mean" else state[-1]).cpu().numpy()
    return FiringText(backbone.chat.texts(text.ids[text.start : text.end]), features, z[:, features], h, text.n_truncated)
