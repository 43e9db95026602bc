"""One file for each way in which a table is written, where that takes more than a few lines."""
