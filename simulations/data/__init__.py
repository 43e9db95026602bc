"""Data sets (`dataset.load`; a new built-in one is a function there) and their division among clients (`partition`)."""
