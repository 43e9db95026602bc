"""Other libraries measured beside ours."""
