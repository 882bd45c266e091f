"""Other Python processes."""

from __future__ import annotations

import os
import sys


def python(code: str, *arguments: str) -> list[str]:
    """The command that runs code in another Python with the same folders of modules as this one.

    By itself it would begin with the working folder, where a file that is called as a module of Python would be run.
    """
    folders = [folder or os.getcwd() for folder in sys.path]
    return [sys.executable, "-c", f"import sys; sys.path[:] = {folders!r}\n{code}", *arguments]
