"""The parts of `suite.py`: what is measured, how, what is owed, and what is kept of it."""
