"""Run parties as processes on this machine: folders, certificates, a Flower network, Flower's simulation engine."""
