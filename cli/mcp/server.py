"""MCP over stdin and stdout, by the official SDK; nothing else may be printed."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    TextContent,
    Tool,
    ToolAnnotations,
)

from agentcom import AgentComError, __version__
from cli.mcp.tools import TOOLS, Tools
from events.errors import Malformed

_ABOUT = (
    "AgentCom runs tasks on the cheapest tier that can do them: shell commands and local "
    "models at no dollars, Claude Code for what needs it. submit_task, then "
    "wait_for_task; several tasks may run at once."
)


def serve(url: str | None = None, token: str | None = None) -> None:
    """Serve until stdin ends; `url` is asked over HTTP, None: the instance found here."""
    asyncio.run(_serve(url, token))


async def _serve(url: str | None, token: str | None) -> None:
    tools = Tools(url, token)

    async def list_tools(_: Any, __: Any) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=name,
                    description=tool.about,
                    input_schema=tool.schema,
                    annotations=ToolAnnotations(
                        read_only_hint=tool.reads, destructive_hint=tool.destroys
                    ),
                )
                for name, tool in TOOLS.items()
            ]
        )

    async def call_tool(ctx: Any, params: CallToolRequestParams) -> CallToolResult:
        try:
            answer = await tools.call(
                params.name, params.arguments or {}, ctx.session.report_progress
            )
        except AgentComError as error:
            return _refused(error, error.code, error.place, error.expected, error.got)
        except Malformed as error:
            return _refused(error, error.code, error.path, error.expected, error.got)
        return _answer(answer)

    server: Server[Any] = Server(
        "agentcom",
        version=__version__,
        instructions=_ABOUT,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    try:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())
    finally:
        await tools.close()


def _answer(value: Any) -> CallToolResult:
    """Make an answer: as JSON, and once more as text for clients that read only that."""
    text = msgspec.json.encode(value).decode()
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=value
    )


def _refused(
    error: Exception, code: str, place: str, expected: str, got: str
) -> CallToolResult:
    """Make a refusal: its sentence, and its facts for programs."""
    facts = {"code": code, "place": place, "expected": expected, "got": got}
    return CallToolResult(
        content=[TextContent(type="text", text=str(error))],
        structured_content=facts,
        is_error=True,
    )
