"""Two policies compared: verdicts, their statistics, words and plots."""
