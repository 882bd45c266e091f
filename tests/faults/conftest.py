"""The fixtures of unit tests: an own data folder per test, and a tiny llama."""

from tests.unit.conftest import _session_home as _session_home
from tests.unit.conftest import serve as serve
from tests.unit.conftest import sparserm_home as sparserm_home
from tests.unit.conftest import tiny_backbone as tiny_backbone
from tests.unit.conftest import tiny_folder as tiny_folder
