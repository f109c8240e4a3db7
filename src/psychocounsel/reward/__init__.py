"""Stage 6: the reward model."""
