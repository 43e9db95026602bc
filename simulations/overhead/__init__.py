"""The cost of a secure sum, such as `mask` or `bfv+mask`: every party and phase over a grid of sizes, with fitted laws
and a report."""
