"""The data plane: workers that fetch objects through CloudFront and upload them to Cloud Storage.

So far it has names, signatures, hashes and verdicts; the transfer engine is to come.
"""
