"""Chat templates and token ids."""
