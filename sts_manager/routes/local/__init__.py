"""What the routes that this program runs itself have in common: the worker pool and URL lists."""
