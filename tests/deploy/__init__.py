"""What `deploy/` ships is held to what proxyd says and does."""
