"""The processes that copy: a pool of them, what passes between them, what each does."""
