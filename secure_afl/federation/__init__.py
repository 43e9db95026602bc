"""How a federation comes together: a coordinator's kits, the parties' answers, signed rosters, certificates."""
