"""Evaluation of heads: accuracy, confidence intervals, length bias, reports and reward benchmarks."""
