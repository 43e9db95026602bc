"""What an operator types: keys, policy, audit."""
