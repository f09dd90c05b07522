"""Adapters of the work queue: each names one vendor."""
