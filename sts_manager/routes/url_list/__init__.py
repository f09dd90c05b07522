"""The route `sts-url-list`: lists of URLs that the Storage Transfer Service fetches from a CDN (ADR 0018)."""
