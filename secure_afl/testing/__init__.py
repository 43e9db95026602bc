"""Instruments to test secure aggregation with: ours, and anybody's who has our `Aggregator` interface.

`aggregators.check_aggregator` puts an aggregator through its paces; `faults` is a network that misbehaves. With the
extra `secure-afl[testing]`, which is Hypothesis: `strategies` draws parties, agreements, statistics and faults;
`machine.SecureSumMachine` drives a whole cohort against a model that knows the truth.
"""
