"""Proves the course on a GPU, and measures it there: ``benchmarks/gpu.sh``."""
