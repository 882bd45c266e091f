"""Write the table of shipped heads into the README, from ``results/heads.json``: ``python -m benchmarks.readme``."""

from __future__ import annotations

import json

from benchmarks.common import FILES, RESULTS, ROOT

START, END = "<!-- table: python -m benchmarks.readme -->", "<!-- end of table -->"
HEADER = "| head | pooling, K | test accuracy (95 % interval) | dense probe | frequency | random | longer | training data |"


def table() -> str:
    """One row for each measured head; accuracies on its test file."""
    results = json.loads((RESULTS / "heads.json").read_text())["results"]
    lines = [HEADER, "|" + "---|" * 8]
    for task, one in results.items():
        low, high = one["ci95"]
        figures = (one[name] for name in ("dense_probe", "frequency", "random_directions", "length_baseline"))
        lines.append(
            f"| {task} | {one['pooling']}, {one['k']} | {one['accuracy']:.3f} ({low:.3f} to {high:.3f}, n = {one['n']}) | "
            + " | ".join(f"{figure:.3f}" for figure in figures)
            + f" | {FILES[task][1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Replace what stands between the two marks."""
    path = ROOT / "README.md"
    before, rest = path.read_text().split(START)
    path.write_text(f"{before}{START}\n{table()}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
