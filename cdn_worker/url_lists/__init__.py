"""What the transfer service needs besides a prefix: URL lists of what is to be moved, and the moves that follow (ADR 0018)."""
