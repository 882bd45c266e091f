"""Names of the Hugging Face Hub, and what went wrong with it, in words.

Its clients raise many types of error, often one wrapped in another.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from sparserm.support.files import one_line
from sparserm.types import Progress

#: Errors of several HTTP libraries by name: the Hub's clients use httpx or requests, by version.
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "ConnectionError", "ReadTimeout", "PoolTimeout", "ProxyError", "NetworkError")
_BROKEN_OFF = ("RemoteProtocolError", "ReadError", "ChunkedEncodingError", "IncompleteRead")
_LOG_IN = "log in with `hf auth login`"

#: Bytes in the unit that downloads are reported in.
MEGABYTE = 1e6

#: Seconds in which the Hub has to answer, where there is a copy to use instead.
_ANSWER_S = 5

#: A revision: a branch, a tag or a commit. ``refs/pr/1`` is one too; a path that leads elsewhere is none.
_REVISION = r"(?!\S*\.\.)\w[\w.+/-]{0,250}"
_NAME = re.compile(rf"(\w[\w.-]{{0,95}}(?:/\w[\w.-]{{0,95}})?)(?:@({_REVISION}))?", re.ASCII)

# The setting is global: two threads that restore it in the wrong order would leave it on.
_OFFLINE = threading.RLock()


class HubName(NamedTuple):
    """A repository of the Hub by name, at a revision if one is given: ``USER/NAME@REVISION``, as in paths of the Hub.

    ``USER/`` may be missing: a few models and datasets are called by one word.
    """

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName | None:
        """The name in a text; None if the text is no name."""
        found = _NAME.fullmatch(text)
        return cls(*found.groups()) if found else None

    @property
    def owned(self) -> bool:
        """Whether the name says whose repository it is."""
        return "/" in self.repository

    def download(self, kind: str = "model") -> str:
        """The command that downloads it; ``kind`` as for :func:`hub_problem`."""
        options = (" --repo-type dataset" if kind == "dataset" else "", f" --revision {self.revision}" if self.revision else "")
        return f"`hf download {self.repository}{''.join(options)}`"

    def page(self, kind: str = "model") -> str:
        """Address of its page on the Hub."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{self.repository}"

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


class HubUnreachableError(ConnectionError):
    """The Hub does not answer, and what is wanted is not in the cache."""


@contextmanager
def cache_if_unreachable() -> Iterator[None]:
    """Make the Hub's clients read their caches at once in the block if the Hub does not answer.

    They would try again for 23 seconds, for each file that is not in the cache because the repository does not have it.

    Raises:
        HubUnreachableError: it does not answer, and something is not in the cache.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or (reason := _unreachable()) is None:
        yield
        return
    with _OFFLINE:
        constants.HF_HUB_OFFLINE = True
        try:
            yield
        except Exception as error:
            if {"OfflineModeIsEnabled", "LocalEntryNotFoundError"} & _types(error).keys():
                raise HubUnreachableError(reason) from error
            raise
        finally:
            constants.HF_HUB_OFFLINE = False


def _unreachable() -> str | None:
    """Why the Hub does not answer; None if it does."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_ANSWER_S)
    except Exception as error:  # of httpx or requests, by version
        return f"{type(error).__name__}: {error}"
    return None


class DownloadBars:
    """Reports the megabytes that the Hub's client downloads, where it would draw progress bars.

    Attributes:
        bar: the class of bars to give to the client.
        stopped: what ``progress`` raised to cancel the download: the client may raise something else, and this is to be raised
            instead.
    """

    def __init__(self, progress: Progress, what: str) -> None:
        from tqdm import tqdm

        self.stopped: Exception | None = None
        self._progress, self._what = progress, what
        self._lock, self._done, self._total = threading.Lock(), 0.0, 0.0  # several threads download

        report = self._report

        class Bar(tqdm):
            def __init__(self, *given: Any, **settings: Any) -> None:
                # Others count files; and there may be one of what comes over the network, whose total is a guess.
                self.counts_bytes = settings.get("unit") == "B" and settings.get("desc") != "Downloading bytes"
                super().__init__(*given, **{**settings, "disable": True})

            def update(self, n: float | None = 1) -> None:
                self.n += n or 0
                if self.counts_bytes:
                    report(self.n, self.total or 0)

        self.bar = Bar

    def _report(self, done: float, total: float) -> None:
        """Report the bytes; the total grows as files are begun."""
        with self._lock:
            if self.stopped:
                raise self.stopped
            self._done, self._total = max(self._done, done), max(self._total, total)
            try:
                self._progress(int(self._done / MEGABYTE), max(1, int(self._total / MEGABYTE)), self._what)
            except Exception as stopped:
                self.stopped = stopped
                raise


def hub_problem(error: BaseException, name: str, kind: str = "model") -> str:
    """The reason why something of the Hub could not be read or written, and how to fix it, on one line.

    Args:
        error: what a client of the Hub raised.
        name: the repository that was asked for, with the revision if one was given.
        kind: ``model`` or ``dataset``.
    """
    asked = HubName.parse(name) or HubName(name)
    if "is a gated dataset" in str(error):  # datasets drops what it was raised from
        return _gated(401 if "must be authenticated" in str(error) else 403, asked, kind)
    chain = list(_chain(error))
    for one in chain:  # an answer of the Hub tells more than the errors that wrap it
        response = getattr(one, "response", None)
        if isinstance(status := getattr(response, "status_code", None), int):
            return _answered(status, getattr(response, "headers", {}), one, asked, kind)
    types = _types(error)
    if (unreachable := types.get("HubUnreachableError")) is not None:
        return f"the Hub cannot be reached ({one_line(unreachable, 100)}); check the network"
    reasons = {
        "OfflineModeIsEnabled": f"{name} is not in the Hub's cache, and HF_HUB_OFFLINE forbids downloads; unset it, or run "
        f"{asked.download(kind)} first",
        "HFValidationError": not_a_name(name),
        **dict.fromkeys(_BROKEN_OFF, "the download broke off; try again"),
        "IncompleteSnapshotError": f"the copy of {name} in the Hub's cache is incomplete; download it again, with a network",
    }
    # First, since OfflineModeIsEnabled is a ConnectionError too.
    if (reason := next((reasons[one] for one in reasons if one in types), None)) is not None:
        return reason
    if any(one in types for one in _UNREACHABLE):
        return f"the Hub cannot be reached ({one_line(f'{type(chain[-1]).__name__}: {chain[-1]}', 100)}); check the network"
    return one_line(f"{type(error).__name__}: {error}")


def not_a_name(text: str) -> str:
    """The reason why a text is refused as a name of the Hub."""
    return f"{text!r} is not a name of the Hub, which are USER/NAME or USER/NAME@REVISION; correct the name"


def _answered(status: int, headers: Mapping[str, str], error: BaseException, asked: HubName, kind: str) -> str:
    """The reason in an answer of the Hub, which gives 401 for what is missing too."""
    name = asked.repository
    code, wait = headers.get("X-Error-Code", ""), headers.get("Retry-After")
    by_code = {
        "GatedRepo": _gated(status, asked, kind),
        "RevisionNotFound": f"{name} has no revision {asked.revision or 'main'!r}; give one of its branches, tags or commits, "
        f"as {name}@REVISION; {asked.page(kind)} lists them",
        "EntryNotFound": f"{name} lacks a file that is needed ({_path_of(error)}); check its files on the Hub",
        "RepoNotFound": f"the Hub has no {kind} {name} that you may read; check the name, or, if it is private, {_LOG_IN}",
    }
    by_status = {
        401: f"the Hub does not know who you are; {_LOG_IN}",
        403: f"your token has no right to this on {name}; {_LOG_IN} with one that has",
        404: by_code["RepoNotFound"],
        429: f"the Hub limits how much it answers (429); try again in {f'{wait} seconds' if wait else 'some minutes'}, or "
        f"{_LOG_IN} for a higher limit",
    }
    if status == 401 and "Invalid credentials" in headers.get("X-Error-Message", ""):
        return f"the Hub does not know your token; {_LOG_IN} again"
    if status >= 500:
        return f"the Hub is down (status {status}); try again later"
    return by_code.get(code) or by_status.get(status) or one_line(f"the Hub answered {status}: {error}")


def _gated(status: int, asked: HubName, kind: str) -> str:
    name, page = asked.repository, asked.page(kind)
    if status == 401:
        return f"{name} is gated: accept its licence on {page}, then {_LOG_IN}"
    return f"{name} is gated, and your account has no access: accept its licence on {page}"


def _types(error: BaseException) -> dict[str, BaseException]:
    """An error and what it was raised from, by the names of their types and of the parents of these."""
    return {parent.__name__: one for one in _chain(error) for parent in type(one).__mro__}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _path_of(error: Any) -> str:
    """The path that was asked for, without the address of the Hub."""
    return one_line(str(getattr(error.response, "url", "")).partition("/resolve/")[2], 100)
