"""OpenClaw itself, from npm, behind the real proxyd: what it says of the proxy, and that all its clients are served.

It takes 900 MB and a registry, so nothing here runs unless it is asked for: `python -m tests.e2e_openclaw [FOLDER]`.
"""
