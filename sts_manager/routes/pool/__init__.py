"""The worker pool as the manager sees it: what it was given, what it reported, who does the work."""
