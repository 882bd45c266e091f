"""Types used throughout the package: errors, hook points, conversations and preference pairs.

Every dataclass is frozen and holds plain data. Array shapes in docstrings use ``n`` responses or pairs, ``T`` response tokens,
``d`` = d_model, ``d_sae`` latents of the SAE, ``K`` features of a head.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Pooling = Literal["last", "mean"]
#: The alignment score of a feature: ``gated``, its projection where its latent fires and zero elsewhere, or the paper's
#: ``projection``, which counts every token.
Score = Literal["gated", "projection"]
Site = Literal["resid_post", "resid_pre", "mlp_out", "mlp"]
#: When a latent counts as active in a response: it fires at one or more of the response tokens, or at half of them or more.
Activity = Literal["any", "most"]

#: How an SAE's input may be normalised, in SAELens's terms.
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")

#: ``progress(done, total, what)``; called from the worker thread, may raise to cancel the work.
Progress = Callable[[int, int, str], None]


class SparseRMError(ValueError):
    """Invalid user input; the message says what was got, what was expected and how to fix it."""


@dataclass(frozen=True, order=True)
class HookPoint:
    """A hook point at layer ``layer`` (0-based), named as in TransformerLens and SAELens.

    ``mlp_out`` is what the MLP adds to the residual stream, ``mlp`` the output of the module. They differ where a norm lies
    between them, as in Gemma 2 and 3, OLMo 2 and GLM-4.
    """

    layer: int
    site: Site = "resid_post"

    @property
    def name(self) -> str:
        """TransformerLens name, e.g. ``blocks.15.hook_resid_post``."""
        return f"blocks.{self.layer}.mlp.hook_out" if self.site == "mlp" else f"blocks.{self.layer}.hook_{self.site}"

    @classmethod
    def parse(cls, name: str) -> HookPoint:
        """Read a TransformerLens hook name.

        Raises:
            SparseRMError: the name is not one of the four supported hook points.
        """
        match = re.fullmatch(r"blocks\.([0-9]{1,4})\.(?:hook_(resid_post|resid_pre|mlp_out)|mlp\.hook_out)", name)
        if match is None:
            raise SparseRMError(
                f"hook point {name[:80]!r} is not supported: expected blocks.<layer>.hook_resid_post, hook_resid_pre or "
                "hook_mlp_out (or model.layers.<layer>, model.layers.<layer>.mlp); choose an SAE trained on one of these"
            )
        return cls(int(match[1]), match[2] or "mlp")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


#: The conversation that the response continues; a plain string means one user turn.
Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Text:
    """A response with its prompt: the unit that has a representation and a reward."""

    prompt: Prompt
    response: str


@dataclass(frozen=True)
class PreferencePair:
    """One comparison: for ``prompt``, ``chosen`` was preferred over ``rejected``.

    ``row`` is the 1-based row in the source; a row with several chosen or rejected responses gives one pair per combination.
    ``category`` and ``id`` come from the source's columns, if it has them; heads do not see them.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    row: int = 0
    category: str = ""
    id: str = ""


def pair_texts(pairs: Sequence[PreferencePair]) -> list[Text]:
    """The texts of all chosen responses, then of all rejected ones."""
    return [Text(pair.prompt, pair.chosen) for pair in pairs] + [Text(pair.prompt, pair.rejected) for pair in pairs]


@dataclass(frozen=True)
class PairIssue:
    """One validation issue of a preference file.

    ``severity`` is ``error`` (the row cannot be used), ``warning`` (the row is used) or ``tie`` (no response was preferred).
    """

    row: int
    column: str
    problem: str
    severity: Literal["error", "warning", "tie"] = "error"

    def __str__(self) -> str:
        return f"row {self.row}, column {self.column}: {self.problem}"


@dataclass(frozen=True)
class PreferenceData:
    """The pairs of one source and its validation issues; every dropped row has an entry in ``issues``."""

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
    """Token ids of a (prompt, response) rendered with the chat template.

    ``ids[start:end]`` are the response tokens; ``ids[end:]`` closes the turn, e.g. with ``<|im_end|>``. ``n_truncated`` tokens
    were cut from the left to fit the context.
    """

    ids: tuple[int, ...]
    start: int
    end: int
    n_truncated: int = 0
