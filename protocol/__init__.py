"""Who says what to whom, and when: messages, state machines, policy and ledger. Loads neither torch nor tenseal."""
