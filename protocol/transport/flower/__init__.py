"""Sessions over Flower: the only place of the framework that knows it. Needs the extra `flower`."""
