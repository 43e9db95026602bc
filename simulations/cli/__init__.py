"""The program `secure-afl`: the operator's commands, and those of simulations."""
