"""Cloud Storage: objects with generations and checked hashes, behind the JSON API and the XML API."""
