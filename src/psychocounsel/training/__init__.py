"""One training loop for every trained stage; losses are functions."""
