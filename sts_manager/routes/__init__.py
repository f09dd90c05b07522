"""Routes: the ways a prefix can travel, behind the `TransferRoute` port."""
