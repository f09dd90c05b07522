"""`sts-manager doctor --probe`: what no document tells of the real services, settled by experiment, and cleaned up afterwards."""
