"""Diagrams of nodes and edges."""
