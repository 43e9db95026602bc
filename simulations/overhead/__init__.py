"""What a secure sum costs: every party, every phase, over a grid of sizes, with fitted laws and a report."""
