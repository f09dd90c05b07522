"""Credentials and signing keys, and their renewal before they end."""
