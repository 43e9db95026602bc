"""What the tables and plots in docs/ are made by: each experiment is a program that measures and then prints."""
