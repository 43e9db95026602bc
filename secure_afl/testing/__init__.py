"""Instruments to test secure aggregation with: ours, and anybody's who has our `Aggregator` interface.

`check_aggregator` puts an aggregator through its paces, `strategies` draws cohorts, statistics and schedules for
Hypothesis, `machine` drives whole cohorts against a model that knows the truth, `faults` is a network that
misbehaves. All but `faults` need the extra `testing`.
"""
