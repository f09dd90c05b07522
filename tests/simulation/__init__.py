"""Simulation tests."""
