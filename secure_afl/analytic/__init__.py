"""The mathematics: statistics, the solve and its certificate, noise for privacy. No torch."""
