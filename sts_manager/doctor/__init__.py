"""`sts-manager doctor`: what would make a migration fail, found before the first byte moves. Nothing is changed by it."""
