"""Benchmarks: every figure the documentation names comes from one of these."""
