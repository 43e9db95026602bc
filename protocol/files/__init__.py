"""An operator's files: keys, roster and policy. Read, write and explain them."""
