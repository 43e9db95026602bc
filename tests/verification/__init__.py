"""The public suite of `secure_afl.testing`: that it finds nothing in ours and what is broken in the broken."""
