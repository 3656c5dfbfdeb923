"""`POST /v1/embeddings`: texts that become vectors by a task, as chats are answered."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from events.commands import refusal_of, refuse
from events.errors import Malformed
from web.api import json_response
from web.chats import Chat, ChatReply, Chats, Sorry, sorry
from web.embeddings import read_embedding, vectors_of

if TYPE_CHECKING:
    from aiohttp import web

    from events import catalogue as c


async def embed(chats: Chats, request: web.Request, who: str) -> web.StreamResponse:
    """Answer a request for vectors, in somebody's name."""
    try:
        wish, is_packed = read_embedding(await request.read(), request.headers)
    except Malformed as wrong:
        return sorry(refusal_of(wrong))
    replying = partial(VectorReply, is_packed=is_packed)
    return await chats.take_on(request, wish, who, replying)


class VectorReply(ChatReply):
    """The HTTP answer to texts that become vectors: one body, from the run's live output."""

    def __init__(self, request: web.Request, chat: Chat, *, is_packed: bool) -> None:
        super().__init__(request, chat)
        self._is_packed = is_packed

    async def say(self, deltas: list[dict[str, Any]]) -> None:
        """Wait for all of it: `chat.sent` has it so far."""

    async def keep_alive(self) -> None:
        """A body says nothing before it is there."""

    async def end(self, result: c.Result) -> web.StreamResponse:
        """Send the vectors. Raises Sorry where not all of their text has come."""
        chat = self.chat
        if not (chat.whole and chat.is_complete(result)):
            raise Sorry(refuse("bad_gateway", "a part of the vectors was lost"))
        self.name_model(result)
        body = vectors_of(
            "".join(chat.sent),
            self.encoder.model,
            result,
            self.where(result),
            is_packed=self._is_packed,
        )
        return json_response(body, 200, self.headers(result))
