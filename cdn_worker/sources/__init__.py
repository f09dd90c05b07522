"""Where objects are read from."""
