"""Pure values and decisions of the data plane: standard library only, no I/O, clock or vendor."""
