"""Measurements: each is a module that prints a table and writes its figures to ``benchmarks/results``."""
