"""Benchmarks. Each module measures one thing and can be run by itself; ``treasury`` runs all of them."""
