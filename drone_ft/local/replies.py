"""Answers in the API's shapes: a whole completion, or chunks of a streamed one."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from drone_ft.local import api
from drone_ft.local.api import Json, refusal
from drone_ft.local.batching import Batcher
from drone_ft.local.chat import Chat
from drone_ft.local.decoding import Answer
from drone_ft.local.prompt import ChatRequest

log = logging.getLogger(__name__)
PIECE = 24
"""Characters of a call's arguments in one streamed chunk."""


def completion(chat: Chat, answers: Sequence[Answer]) -> Json:
    """A `chat.completion` with one choice an answer."""
    choices = [
        Choice.construct(
            index=index,
            message=ChatCompletionMessage.construct(**_message(answer, chat.older)),
            logprobs=_logprobs(answer),
            finish_reason=_finish(answer, chat.older),
        )
        for index, answer in enumerate(answers)
    ]
    reply = ChatCompletion.construct(
        id=api.new_id("chatcmpl-"),
        object="chat.completion",
        created=int(time.time()),
        model=chat.model,
        choices=choices,
        usage=_usage(answers),
    )
    body: Json = api.dump(reply)
    return body


class Text:
    """One answer's text as the engine writes it; begins to be written when made, inside the event loop."""

    def __init__(self, batcher: Batcher, model: str, request: ChatRequest) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self._first: list[str] = []
        # chances of tokens are told of a whole answer only
        on_piece = self._take if request.logprobs is None else None
        self._promise = asyncio.wrap_future(batcher.ask(model, request, on_piece))
        self._promise.add_done_callback(lambda _: self._pieces.put_nowait(None))

    async def begin(self) -> None:
        """Waits for the first piece; raises what the engine raises."""
        piece = await self._pieces.get()
        if piece is None:
            await self._promise
            self._pieces.put_nowait(None)
        else:
            self._first = [piece]

    async def pieces(self) -> AsyncIterator[str]:
        """The text, piece by piece; raises what the engine raises."""
        for piece in self._first:
            yield piece
        while (more := await self._pieces.get()) is not None:
            yield more

    async def answer(self) -> Answer:
        """The whole answer."""
        return await self._promise

    def drop(self) -> None:
        """Nobody listens any more."""
        if not self._promise.cancel() and not self._promise.cancelled():
            self._promise.exception()  # looked at: asyncio would complain that nobody did

    def _take(self, piece: str) -> None:
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


async def events(chat: Chat, texts: Sequence[Text]) -> AsyncIterator[str]:
    """Server-sent events of text as the engine writes it; what turns out to be calls is told at its end, in pieces."""
    chunk = _Chunk(chat)
    answers: list[Answer] = []
    try:
        for index, text in enumerate(texts):
            begun = False
            async for piece in text.pieces():
                if not begun:
                    yield chunk(index, {"role": "assistant", "content": ""})
                begun = True
                yield chunk(index, {"content": piece})
            answer = await text.answer()
            if not begun:
                message = _message(answer, chat.older)
                whole = {"role": "assistant", "content": message["content"]}
                yield chunk(index, whole, logprobs=_logprobs(answer))
                for delta in _call_deltas(message):
                    yield chunk(index, delta)
            yield chunk(index, {}, _finish(answer, chat.older))
            answers.append(answer)
        for last in chunk.end(answers):
            yield last
    except Exception as error:
        log.warning("A streamed answer broke off", exc_info=error)
        yield event(refusal(error).body())
    finally:
        for text in texts:
            text.drop()


class _Chunk:
    """Makes the chunks of one completion: they share its id."""

    def __init__(self, chat: Chat) -> None:
        self._usage_asked = chat.include_usage
        self._fixed: Json = {
            "id": api.new_id("chatcmpl-"),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": chat.model,
        }

    def __call__(self, index: int, delta: Json, finish: str | None = None, logprobs: Json | None = None) -> str:
        choice = ChunkChoice.construct(
            index=index, delta=ChoiceDelta.construct(**delta), finish_reason=finish, logprobs=logprobs
        )
        return self._event([choice], {"usage": None} if self._usage_asked else {})

    def end(self, answers: Sequence[Answer]) -> Iterator[str]:
        """Usage, when it was asked for, and the end mark."""
        if self._usage_asked:
            yield self._event([], {"usage": _usage(answers)})
        yield "data: [DONE]\n\n"

    def _event(self, choices: list[ChunkChoice], more: Json) -> str:
        return event(api.dump(ChatCompletionChunk.construct(**self._fixed, choices=choices, **more)))


def event(value: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _message(answer: Answer, older: bool) -> Json:
    message: Json = {"role": "assistant", "content": None if answer.calls else answer.text or "", "refusal": None}
    if answer.calls and older:
        name, arguments = answer.calls[0]
        message["function_call"] = {"name": name, "arguments": arguments}
    elif answer.calls:
        message["tool_calls"] = [
            {"id": api.new_id("call_"), "type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in answer.calls
        ]
    return message


def _call_deltas(message: Json) -> Iterator[Json]:
    if "function_call" in message:
        call = message["function_call"]
        yield {"function_call": {"name": call["name"], "arguments": ""}}
        yield from ({"function_call": {"arguments": piece}} for piece in _cut(call["arguments"]))
        return
    for index, call in enumerate(message.get("tool_calls", ())):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{"index": index, **call, "function": function}]}
        for piece in _cut(call["function"]["arguments"]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


def _cut(text: str) -> Iterator[str]:
    return (text[start : start + PIECE] for start in range(0, len(text), PIECE))


def _logprobs(answer: Answer) -> Json | None:
    """The chances of a text's tokens in the API's shape; null for calls, and where nobody asked."""
    if answer.logprobs is None:
        return None
    content = [
        {**_token(token.text, token.logprob), "top_logprobs": [_token(*other) for other in token.likeliest]}
        for token in answer.logprobs
    ]
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> Json:
    broken = "\ufffd" in text  # a part of a letter
    return {"token": text, "logprob": logprob, "bytes": None if broken else list(text.encode())}


def _finish(answer: Answer, older: bool) -> str:
    return "function_call" if older and answer.finish_reason == "tool_calls" else answer.finish_reason


def _usage(answers: Sequence[Answer]) -> CompletionUsage:
    """Prompt tokens are counted once, however many choices were asked for; as the API does."""
    prompt = answers[0].prompt_tokens if answers else 0
    written = sum(answer.completion_tokens for answer in answers)
    return CompletionUsage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)
