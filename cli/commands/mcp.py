"""The MCP server as a command."""

from __future__ import annotations

import importlib.util

import click

from cli.client.target import on_target
from cli.render.terminal import EXIT_OK, Problem


@click.command()
@on_target
def mcp() -> int:
    """Serve AgentCom's tools to an MCP client, over stdin and stdout.

    \b
      claude mcp add agentcom -- agentcom mcp

    The client starts it, and it ends with the client; tasks go on.
    """
    if importlib.util.find_spec("mcp") is None:
        raise Problem("the MCP server needs the extra mcp: pip install 'agentcom[mcp]'")
    from cli.mcp.server import serve

    serve()
    return EXIT_OK
