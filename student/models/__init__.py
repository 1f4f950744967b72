"""Descriptions of students."""
