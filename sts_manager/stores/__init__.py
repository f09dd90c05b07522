"""Job stores: the job table and its history behind the `JobStore` port."""
