"""Application screens."""
