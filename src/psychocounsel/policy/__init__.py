"""Stage 7: the preference-aligned policy, offline and then online."""
