"""Where objects are written."""
