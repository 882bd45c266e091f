"""The command line. Every command prints tables, or with ``--json`` a single JSON object on stdout.

An error ends the command with exit code 2 and one line on stderr: what was given, what was expected, and how to fix it.
Progress and warnings go to stderr too.
"""

# Importing a module registers its commands; `sparserm --help` lists them in this order.
# isort: off
from sparserm.cli import score_commands as score_commands
from sparserm.cli import train_commands as train_commands
from sparserm.cli import evaluate_commands as evaluate_commands
from sparserm.cli import insights_commands as insights_commands
from sparserm.cli import head_commands as head_commands
from sparserm.cli import align_commands as align_commands
from sparserm.cli import export_commands as export_commands
from sparserm.cli import serve_commands as serve_commands

# isort: on
from sparserm.cli.entry import main

__all__ = ["main"]
