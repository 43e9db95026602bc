"""Instruments to test secure aggregation with: ours, and anybody's who has our `Aggregator` interface.

`aggregators.check_aggregator` puts an aggregator through its paces; `faults` is a network that misbehaves.
"""
