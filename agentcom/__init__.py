"""AgentCom, as a program imports it.

This package is all that an installed AgentCom adds to the names one can import, and
importing it loads none of its insides. `agentcom.__main__` is the command.
"""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.2.0"
