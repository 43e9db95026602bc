"""The protocols: messages, state machines, policy and ledger. Nothing here loads torch or tenseal."""
