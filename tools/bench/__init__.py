"""Benchmarks: each prints its figures with the ratio that matters."""
