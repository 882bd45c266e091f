"""SparseRM's clients, run for real: ``python -m clients`` writes ``docs/compatibility.md``.

Each client has a module that says what its environment needs and what is checked. Its checks run in a virtual environment of
its own, which shares the packages of this one that it does not replace, against ``sparserm serve`` on a free port.
"""
