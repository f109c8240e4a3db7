"""Stage 8: honest evaluation of reward models and policies."""
