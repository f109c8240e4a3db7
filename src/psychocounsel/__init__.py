"""PsychoCounsel: principles, preference data, reward models, aligned policies and honest evaluation.

Research and professional drafting aid for people who work in mental health. It is not therapy.
"""

__version__ = "0.1.0"
