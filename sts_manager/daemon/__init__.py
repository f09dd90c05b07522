"""The daemon: its loop, one pass of it, its heartbeat."""
