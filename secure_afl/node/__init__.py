"""A party's deployment: its folder, the study, the Flower app."""
