"""Where objects are read from and written to: S3, CloudFront, Cloud Storage."""
