"""Publish, pull and the model card."""
