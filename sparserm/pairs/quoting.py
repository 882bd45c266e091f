"""Signs that a quote in a CSV file was not written as one and joined several rows into one cell.

A cell that begins with a bare quote swallows the rows after it, up to one that ends with a quote in the same column; the result
has the right number of cells. Every line of such a row splits into as many cells as the header has. The lines of a text that
somebody wrote seldom do: its separators are followed by spaces, and in a table inside a text the first or the last line, which
share theirs with other cells, have another number. Lines that end otherwise than rows do are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

#: The comma in a number such as 1,000.
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass
class Quoting:
    """What the rows of a file show about how its cells are written.

    Attributes:
        delimiter: between cells.
        spaced: whether a space follows each delimiter in the header.
        quotes: whether a cell was surely put in quotes by what wrote the file.
        bare: whether a quote was surely left as it is.
    """

    delimiter: str
    spaced: bool = False
    quotes: bool = False
    bare: bool = False

    @property
    def is_kept(self) -> bool:
        """Whether the file shows that its quotes mean what they say."""
        return self.quotes and not self.bare

    def learn(self, cells: Sequence[str], raw: str) -> None:
        """Take in a row that is surely one, and its text in the file."""
        self.quotes = self.quotes or raw.startswith('"') or any(self.delimiter in one or "\n" in one for one in cells)
        self.bare = self.bare or any('"' in one and one.replace('"', '""') not in raw for one in cells)

    def may_be_rows(self, lines: Sequence[str], n_cells: int) -> bool:
        """Whether each of the lines of a row may be a row of its own."""
        ends = {line[len(line.rstrip("\r\n")) :] for line in lines} - {""}  # the last line of a file may have none
        if len(lines) == 1 or len(ends) > 1:
            return False
        ends_empty = lines[-1].rstrip("\r\n").endswith(self.delimiter)  # so may other rows: the last column has few texts
        like = [self._is_like_a_row(line, n_cells, ends_empty) for line in lines]
        inner = like[1:-1]
        return like[0] and like[-1] and 2 * sum(inner) >= len(inner)

    def _is_like_a_row(self, line: str, n_cells: int, ends_empty: bool) -> bool:
        """Whether a line splits into this many cells; separators in a text have a space after them."""
        text = _THOUSANDS.sub("", line) if self.delimiter == "," else line
        in_text = "|".join([*([] if self.spaced else [" "]), *([] if ends_empty else [r"[\r\n]|$"])]) or "(?!)"
        return len(re.findall(rf"{re.escape(self.delimiter)}(?!{in_text})", text)) == n_cells - 1


def holds_quoted(cells: Sequence[str], raw: str) -> bool:
    """Whether a cell of a row stands in quotes after a space in the file, where they are a part of the text."""
    return any('"' in one and one in raw and re.fullmatch(r'\s+".*"\s*', one, re.DOTALL) for one in cells)


def are_surely_rows(cells: Sequence[str], n_lines: int) -> bool:
    """Whether the lines of a row that may be rows are so for sure.

    A text inside a row shares its first line with the cells before it and its last with those after it: where there are both,
    and lines between, no table has the lengths that make all of them look like rows.
    """
    column = next((i for i, one in enumerate(cells) if "\n" in one or "\r" in one), 0)
    return n_lines > 2 and 0 < column < len(cells) - 1
