"""The data plane: workers that fetch objects through CloudFront and upload them to Cloud Storage.

Empty until the transfer engine lands; it is here so that the import contracts hold from the first commit.
"""
