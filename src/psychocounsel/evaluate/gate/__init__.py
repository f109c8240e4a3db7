"""Two evaluations compared by rules."""
