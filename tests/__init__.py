"""Tests: unit, property, conformance, simulation, integration, end to end."""
