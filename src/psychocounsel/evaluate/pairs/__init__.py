"""Labelled pairs: what a scorer makes of them, and what moves it."""
