"""Live state in Redis or Valkey: a projection of the views and the journal for readers of other programs.

Nothing is ever decided by what stands there, and losing it costs freshness and nothing else (design.md §4).
"""
