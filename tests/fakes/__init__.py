"""Stand-ins for adapters, trusted because they pass the same conformance suites as the real ones."""
