"""The command line. Every command prints a table, or with ``--json`` one JSON object on stdout and nothing else there.

A command that cannot do what was asked ends with code 2 and one line on stderr: what was got, what was expected, how to
mend it. Progress and warnings go to stderr too.
"""

# Importing the modules registers their commands, in the order of the help.
from sparserm.cli import (  # noqa: F401, I001
    score_commands,
    train_commands,
    evaluate_commands,
    head_commands,
    align_commands,
    export_commands,
    serve_commands,
)
from sparserm.cli.entry import main

__all__ = ["main"]
