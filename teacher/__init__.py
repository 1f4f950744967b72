"""Makes traces: domains, tasks, model servers and the agent loop."""
