"""From verdict to act: plan, guards, executor."""
