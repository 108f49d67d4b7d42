"""Fiscus beside other software."""
