"""The rehearsal stage: servers on loopback that the official clients cannot tell from the services, as far as we lean on them.

`docs/rehearsal.md` says what each one models, what it does not, and what was assumed.
"""
