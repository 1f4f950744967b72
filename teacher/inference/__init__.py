"""Model servers and the client."""
