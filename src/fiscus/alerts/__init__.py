"""Alerts: from the journal and usage to e-mail, chat and web hooks, through an outbox."""
