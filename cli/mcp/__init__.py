"""The MCP server: AgentCom's tools for any program that speaks the protocol.

`tools` says what there is and does it, with the library; `server` speaks MCP over stdio.
"""

from __future__ import annotations
