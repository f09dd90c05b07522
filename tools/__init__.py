"""Utility scripts, the rehearsal stage, the demo and the benchmarks."""
