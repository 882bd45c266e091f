"""The guides as the Docs page shows them, and the frame's title."""

from __future__ import annotations

import re

from sparserm.ui.docs.guides import guide_text, guide_titles
from sparserm.ui.shared.frame import LOGO, title


def test_every_guide_has_a_title_and_links_only_to_guides() -> None:
    titles = guide_titles()
    assert next(iter(titles)) == "from-data" and all(titles.values())
    for name in titles:
        for link in re.findall(r"\]\(([^)]*)\)", guide_text(name)):
            guide = re.fullmatch(r"docs\?guide=([\w-]+)(#[\w-]+)?|https://\S+|#[\w-]+", link)
            assert guide and (guide[1] is None or guide[1] in titles), (name, link)


def test_the_tab_says_which_page_of_which_app() -> None:
    assert title("Audit") == "Audit · SparseRM" and LOGO.is_file()
