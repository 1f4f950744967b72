"""Runs episodes."""
