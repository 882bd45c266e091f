"""Sparse autoencoders: loading, training and evaluation."""
