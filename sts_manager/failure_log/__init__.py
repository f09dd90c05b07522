"""Which objects failed and why, from what the transfer service logs. Entries come late: it is read again until all are named."""
