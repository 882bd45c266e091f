"""Benchmarks: each module measures one thing and writes its results to ``benchmarks/results``."""
