"""Checks of a served teacher."""
