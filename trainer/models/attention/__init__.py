"""Attention: all implementations, with their kernels."""
