"""The files that an operator edits, keys, roster and policy, and how they are read and explained."""
