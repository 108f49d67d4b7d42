"""The ledger, pure: it decides and folds, and does nothing else."""
