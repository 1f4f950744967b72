"""Memory, cost and the plan."""
