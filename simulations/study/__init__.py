"""One simulated run, from data set to report."""
