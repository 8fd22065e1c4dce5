"""The networks: they know torch and nothing of the rest."""
