"""Source and destination, listed in lock step and compared."""
