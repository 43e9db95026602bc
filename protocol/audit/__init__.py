"""Signed logs of what each party agreed to, sent, received and released, and the checks of these logs."""
