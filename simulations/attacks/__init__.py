"""Attacks on real data: each on plain uploads, on designs that others shipped, and on ours."""
