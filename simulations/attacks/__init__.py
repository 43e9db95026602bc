"""Attacks on real data, each on plain uploads, on weak designs of shipped libraries, and on our design."""
