"""The command line. Every command prints a table, or with ``--json`` one JSON object on stdout and nothing else there.

A command that cannot do what was asked ends with code 2 and one line on stderr: what was got, what was expected, how to
mend it. Progress and warnings go to stderr too.
"""

# Importing the modules registers their commands, in the order of the help.
# isort: off
from sparserm.cli import score_commands as score_commands
from sparserm.cli import train_commands as train_commands
from sparserm.cli import evaluate_commands as evaluate_commands
from sparserm.cli import head_commands as head_commands
from sparserm.cli import align_commands as align_commands
from sparserm.cli import export_commands as export_commands
from sparserm.cli import serve_commands as serve_commands

# isort: on
from sparserm.cli.entry import main

__all__ = ["main"]
