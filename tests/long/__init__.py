"""Programs that test for minutes or hours: run by hand, replayed in short by tests/verification."""
