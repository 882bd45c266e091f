"""The values that flow between the stages, in the order in which they arise.

Every class here is frozen and holds plain data; arrays are NumPy and their shapes stand beside them:
``n`` responses or pairs, ``T`` response tokens, ``d`` = d_model, ``d_sae`` latents of the SAE, ``K`` features of a head.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
