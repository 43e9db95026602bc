"""How messages reach parties: in this process, or on other machines over Flower."""
