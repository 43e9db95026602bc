"""The rules that all parties share: wire format, roster, policy, parameters, graph, ledger, signing."""
