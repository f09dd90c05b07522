"""STS Manager: the control plane that moves prefixes of objects from AWS S3 to Google Cloud Storage."""
