"""Raters compared: people, judges and labels."""
