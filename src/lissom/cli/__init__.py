"""The command line: train a recipe or its curve; measure, shrink, export and report what came."""

from lissom.cli import making, networks, starting, studies  # in the order of the help
from lissom.cli.shared import app

__all__ = ["app", "making", "networks", "starting", "studies"]
