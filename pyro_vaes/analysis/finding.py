"""What an audit says in a line; it lives where inference can use it too."""

from pyro_vaes.finding import VERDICTS, Finding

__all__ = ["VERDICTS", "Finding"]
