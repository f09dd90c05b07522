"""Moves bytes: the loop and the pump. The only importer of pycurl."""
