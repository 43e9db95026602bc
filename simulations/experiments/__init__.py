"""The experiments behind the tables and plots in docs/: each is a program that measures and then prints."""
