"""Text from users and numbers inside sentences of ours."""

from __future__ import annotations

import re


def plain(text: object) -> str:
    """``text`` so that Streamlit's Markdown shows it as it is: no emphasis, link, image, formula, emoji or colour."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_\[\]$~<>:|#])|(?<=www)(\.)", lambda found: "\\" + found[0], flat)


def counted(n_rows: int) -> str:
    """``1 row``, ``1,092 rows``."""
    return f"{n_rows:,} row{'' if n_rows == 1 else 's'}"


def sentence(error: Exception) -> str:
    """An error's message as a sentence that begins with a capital; file names and values in it are not Markdown."""
    text = plain(error)
    begins_with_a_name = not text.partition(" ")[0].isalpha()
    return text if begins_with_a_name else text[:1].upper() + text[1:]
