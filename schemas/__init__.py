"""What is valid: JSON Schemas, the checks of a trace, and the two small things every layer shares.

The lowest layer: it imports none of the others.
"""
