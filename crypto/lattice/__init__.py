"""Ring-LWE: residues, number-theoretic transform, BFV, CKKS, joint keys; `seal` alone loads TenSEAL."""
