"""The process: commands, settings, and the one place where everything is wired."""
