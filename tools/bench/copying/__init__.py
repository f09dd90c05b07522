"""Copying, side by side: the engine, the way of the older tools, rclone, and the floor in C."""
