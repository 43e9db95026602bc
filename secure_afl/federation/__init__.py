"""How a federation comes together: a coordinator's kits, the parties' answers, signed rosters, certificates; and the page that
says for the file what came of it.
"""
