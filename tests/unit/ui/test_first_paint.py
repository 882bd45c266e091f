"""The first page is drawn before the heavy libraries are imported."""

from __future__ import annotations

import subprocess
import sys

from sparserm.support.defaults import bundle_dir

IMPORTS = """
import ast, sys
for name in ("app.py", "pages/score.py"):
    tree = ast.parse(open(name).read())
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, name, "exec"))
print(*sorted({"torch", "transformers", "pandas", "sae_lens"} & set(sys.modules)))
"""


def test_what_the_first_page_imports_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], cwd=bundle_dir(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
