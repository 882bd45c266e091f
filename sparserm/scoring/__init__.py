"""Scoring of many responses: best of N, and files of pairs of any size."""
