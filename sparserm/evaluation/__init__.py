"""Accuracy of heads, confidence intervals, length checks and reward benchmarks."""
