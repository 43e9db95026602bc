"""How messages reach parties on other machines: what is the same for every transport."""
