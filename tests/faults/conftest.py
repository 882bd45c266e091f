"""The fixtures of unit tests: an own data folder per test, a tiny llama, and commands on it."""

from tests.unit.cli.conftest import parts, run
from tests.unit.conftest import _session_home, serve, sparserm_home, tiny_backbone, tiny_folder

__all__ = ["_session_home", "parts", "run", "serve", "sparserm_home", "tiny_backbone", "tiny_folder"]
