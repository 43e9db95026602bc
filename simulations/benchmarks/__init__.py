"""What a masked and an encrypted sum cost on this machine."""
