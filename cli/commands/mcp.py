"""The MCP server as a command."""

from __future__ import annotations

import importlib.util
import os

import click

from cli.client.target import on_target
from cli.render.terminal import EXIT_OK, Problem


@click.command()
@on_target
def mcp() -> int:
    """Serve AgentCom's tools to an MCP client, over stdin and stdout.

    \b
      claude mcp add agentcom -- agentcom mcp

    The client starts it, and it ends with the client; tasks go on. Where AGENTCOM_URL is
    set, it asks there, over HTTP with the token in AGENTCOM_TOKEN.
    """
    if importlib.util.find_spec("mcp") is None:
        raise Problem("the MCP server needs the extra mcp: pip install 'agentcom[mcp]'")
    from cli.mcp.server import serve

    serve(os.environ.get("AGENTCOM_URL"), os.environ.get("AGENTCOM_TOKEN"))
    return EXIT_OK
