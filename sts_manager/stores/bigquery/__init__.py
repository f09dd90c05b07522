"""The job store on BigQuery: the store, its client, its statements and their set-up."""
