"""State that survives a restart: the store, the server's journal, durable parties."""
