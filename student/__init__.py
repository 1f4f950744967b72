"""Learns from traces and ships: examples, training, export, exam, store."""
