"""What `flwr run` ships: two names out of the installed `secure_afl`, and nothing of its own."""
