"""What the tests of examples share."""

from docs.programs import programs

__all__ = ["programs"]
