"""The worker of the pool: it claims tasks, lists and copies, and reports."""
