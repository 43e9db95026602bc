"""Tables: reading them as text, the codebook that says what their columns mean, and encoding."""
