"""The job store on SQL: the store and its schema."""
