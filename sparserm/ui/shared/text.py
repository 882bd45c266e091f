"""Formats text from users, numbers and errors for messages on a page."""

from __future__ import annotations

import re

#: The folders of an absolute path, on Linux, macOS and Windows.
_FOLDERS = re.compile(r"(?<![\w:/.~-])/(?:[^\s/;:,'\"()]+/)+|\b[A-Za-z]:\\(?:[^\s\\;:,'\"()]+\\)+")
#: Advice for the command line only.
_COMMAND = re.compile(r"(^|\s)--[a-z]")
#: Command-line flags in parentheses or as an alternative at the end, and arguments of `load_pairs`, in error messages.
_FLAGS, _ARGUMENTS = re.compile(r" \(--[a-z][^()]*\)|,? or [^,;]*--[a-z][^,;]*$"), re.compile(r"\b(columns|skip_bad)=")


def plain(text: object) -> str:
    """Escape ``text`` so that Streamlit shows it verbatim: no emphasis, link, image, formula, emoji or colour."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]$~<>:|#])|(?<=www)(\.)", lambda found: "\\" + found[0], flat)


def counted(n_rows: int) -> str:
    """``1 row``, ``1,092 rows``."""
    return f"{n_rows:,} row{'' if n_rows == 1 else 's'}"


def sentence(error: Exception | str, advice: str = "choose its columns, or leave rows out, on the Train page") -> str:
    """An error message as a sentence that begins with a capital, with Markdown escaped and of paths only the last part.

    Args:
        advice: shown instead of advice to set Python arguments for the columns and rows of a file.
    """
    if isinstance(error, OSError):  # its own text has the path
        error = (
            f"a file could not be read or written ({error.strerror or type(error).__name__}); check permissions and free space"
        )
    *clauses, last = _FOLDERS.sub("", str(error)).split("; ")
    last = advice if clauses and _ARGUMENTS.search(last) else _FLAGS.sub("", last)
    text = plain("; ".join(clauses if clauses and _COMMAND.search(last) else [*clauses, last]))
    begins_with_a_name = not text.partition(" ")[0].isalpha()
    return text if begins_with_a_name else text[:1].upper() + text[1:]
