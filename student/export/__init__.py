"""Merge, GGUF and the export gate."""
