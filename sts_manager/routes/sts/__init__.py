"""The routes that Google's Storage Transfer Service travels: from S3, from Cloud Storage, event-driven."""
