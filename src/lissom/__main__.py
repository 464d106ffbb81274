"""`python -m lissom` is the command line."""

from lissom.cli import app

app()
