"""The command line: train a recipe or its curve; measure, shrink, export and report what came."""

from lissom.cli import listing, making, networks, starting, studies
from lissom.cli.shared import app

__all__ = ["app", "listing", "making", "networks", "starting", "studies"]
