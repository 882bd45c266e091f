"""The guides in docs/, as Markdown for a page of the app."""

from __future__ import annotations

import re

from sparserm.support.defaults import bundle_dir

#: A link to another guide, and a link to any other file of the repository, which the app does not have.
_GUIDE, _FILE = re.compile(r"\]\((?P<name>[\w-]+)\.md(?P<part>#[\w-]+)?\)"), re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def guide_titles() -> dict[str, str]:
    """Maps the name of each guide to its title, in the order in which they are read."""
    order = ["from-data", "insights", "formats", "train", "trust", "features", "score"]
    found = {file.stem: _title(file.read_text(encoding="utf-8")) for file in (bundle_dir() / "docs").glob("*.md")}
    return dict(sorted(found.items(), key=lambda one: (order.index(one[0]) if one[0] in order else len(order), one[1])))


def guide_text(name: str) -> str:
    """A guide with links that work in the app."""
    text = (bundle_dir() / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return _FILE.sub(r"\1", _GUIDE.sub(lambda link: f"](docs?guide={link['name']}{link['part'] or ''})", text))


def _title(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ")
