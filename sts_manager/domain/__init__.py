"""Pure values and decisions: standard library only; no I/O, clock, logging or vendor."""
