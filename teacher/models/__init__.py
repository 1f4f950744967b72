"""Descriptions of teachers."""
