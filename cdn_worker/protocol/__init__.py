"""All that the control plane may know of the data plane: messages, how they are written, and the ledger of URL lists."""
