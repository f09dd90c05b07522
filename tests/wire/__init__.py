"""Answers of the real services, and what our parsers make of them."""
