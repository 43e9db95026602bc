"""Ring-LWE: residues, number-theoretic transform, BFV, CKKS, joint keys. Only `seal` loads TenSEAL."""
