"""Pub/Sub, as far as a work queue asks of it."""
