"""The embedded store: one file for the journal, one for the views that follow it."""
