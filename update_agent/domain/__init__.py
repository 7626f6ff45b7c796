"""What the agent decides. Synchronous; machine and network come in as protocols."""
