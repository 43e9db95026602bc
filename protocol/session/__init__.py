"""Rules that all parties share: wire format, roster, policy (what a client refuses), parameters, graph, ledger,
signing."""
