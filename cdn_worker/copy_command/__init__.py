"""`cdn-worker copy`: one prefix, one machine."""
