"""Instruments for testing secure aggregation: ours, and any other with our `Aggregator` interface.

`aggregators.check_aggregator` checks every property of an aggregator; `faults` is a network that misbehaves. With the
extra `secure-afl[testing]`, which installs Hypothesis, `strategies` draws parties, agreements, statistics and faults,
and `machine.SecureSumMachine` drives a whole cohort against a model of the true sums.
"""
