"""Parties, folders and networks that many tests build.

Three worlds, since each varies something else: `cohorts` the graph and threshold of masked sums, `encrypted` the key
holders and lattice of encrypted ones (it builds the masked session beneath `bfv+mask` itself), `folders` what is on disk,
with parties made anew for every message. Attacks on them build on the first two.
"""
