"""Clients that are not ours over the emulator suite: `make test-clients`, which gets them; `make test` leaves this folder out."""
