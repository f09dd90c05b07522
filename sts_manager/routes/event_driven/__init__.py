"""The route `sts-follow`: one event-driven job of the transfer service, followed over all its operations."""
