"""A stand-in for Envoy's handle for Lua filters, for the LuaJIT that Envoy contains.

It has the methods that our filters use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from lupa.luajit21 import LuaRuntime

_HANDLE = """
local function headers_of(list)
  local made = {}
  local function at(name) for i, pair in ipairs(list) do if pair[1] == name then return i end end end
  function made:get(name) local values = {}
    for _, pair in ipairs(list) do if pair[1] == name then values[#values + 1] = pair[2] end end
    if #values > 0 then return table.concat(values, ',') end
  end
  function made:remove(name) local i = at(name) while i do table.remove(list, i) i = at(name) end end
  function made:replace(name, value) made:remove(name) list[#list + 1] = {name, value} end
  function made:add(name, value) list[#list + 1] = {name, value} end
  return setmetatable(made, {__pairs = function()
    local i = 0
    return function() i = i + 1 if list[i] then return list[i][1], list[i][2] end end
  end})
end

local function buffer_of(message)
  local made = {}
  function made:length() return #message.body end
  function made:getBytes(from, size) return message.body:sub(from + 1, from + size) end
  function made:setBytes(text) message.body = text end
  return made
end

-- pairs() as Envoy's LuaJIT has it for its own objects
local plain_pairs = pairs
function pairs(t) local meta = getmetatable(t) if meta and meta.__pairs then return meta.__pairs(t) end return plain_pairs(t) end

function handle_of(message, metadata, now, http_call)
  local made = {}
  function made:headers() return headers_of(message.headers) end
  function made:body(always) if always or #message.body > 0 then return buffer_of(message) end end
  function made:bodyChunks()
    local i = 0
    return function()
      i = i + 1
      local chunk = message.chunks[i]
      return chunk and buffer_of(chunk)
    end
  end
  function made:timestamp() return now end
  function made:streamInfo() return {dynamicMetadata = function() return {
    get = function(_, namespace) -- a copy, as Envoy gives
      local copy = metadata[namespace] and {}
      for key, value in plain_pairs(metadata[namespace] or {}) do copy[key] = value end
      return copy
    end,
    set = function(_, namespace, key, value)
      metadata[namespace] = metadata[namespace] or {}
      metadata[namespace][key] = value
    end,
  } end} end
  function made:respond(headers, body)
    message.answer = {headers = headers, body = body}
    coroutine.yield()
  end
  function made:httpCall(cluster, headers, body, limit)
    message.asked = {cluster = cluster, headers = headers, limit = limit}
    local answer = http_call()
    return answer[1], answer[2]
  end
  return made
end

function run(name, handle)
  local filter = coroutine.create(_G[name])
  local fine, fault = coroutine.resume(filter, handle)
  if not fine then error(fault) end
end
"""


@attrs.define
class Exchange:
    """The request or answer after a filter. `answer` is the filter's own, if it gave one."""

    headers: dict[str, str]
    body: bytes
    answer: tuple[dict[str, str], bytes] | None = None
    question: dict[str, str] | None = None


class Filter:
    """A whole filter in a state of its own, as each worker of Envoy has one."""

    def __init__(self, source: str) -> None:
        self._lua = LuaRuntime(encoding=None)
        self._lua.execute(_HANDLE.encode())
        self._lua.execute(source.encode())
        self.now = 0

    @property
    def globals(self) -> Any:
        return self._lua.globals()

    def table(self, value: Any) -> Any:
        """A value as Envoy hands it to Lua."""
        if isinstance(value, Mapping):
            return self._lua.table_from({key.encode(): self.table(each) for key, each in value.items()})
        if isinstance(value, list | tuple):
            return self._lua.table_from([self.table(each) for each in value])
        return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value

    def metadata(self) -> Any:
        """The dynamic metadata of a new request."""
        return self.table({})

    def request(self, headers: Mapping[str, str], body: bytes, metadata: Any, healed: Any = None) -> Exchange:
        return self._run("envoy_on_request", list(headers.items()), [body], metadata, lambda: healed)

    def response(self, headers: Mapping[str, str], chunks: list[bytes], metadata: Any) -> Exchange:
        return self._run("envoy_on_response", list(headers.items()), chunks, metadata, lambda: self.table([{}, b""]))

    def _run(
        self, name: str, headers: list[tuple[str, str]], chunks: list[bytes], metadata: Any, http_call: Callable[[], Any]
    ) -> Exchange:
        message = self.table({"headers": headers, "body": b"".join(chunks), "chunks": [{"body": each} for each in chunks]})
        lua = self._lua.globals()
        lua.run(name.encode(), lua.handle_of(message, metadata, self.now, http_call))
        read = {pair[1].decode(): pair[2].decode() for pair in message.headers.values()}
        pieces = b"".join(chunk.body for chunk in message.chunks.values())
        answer = message.answer and (text_of(message.answer.headers), message.answer.body)
        question = message.asked and text_of(message.asked.headers) | {"limit": str(int(message.asked.limit))}
        changed = message.body != b"".join(chunks)
        return Exchange(read, message.body if changed else pieces, answer or None, question or None)


def text_of(table: Any) -> dict[str, str]:
    """A flat table of Lua's."""
    return {key.decode(): value.decode() for key, value in table.items()}


def plain(table: Any) -> dict[str, Any]:
    """A table of Lua's, with the tables in it, for a filter with another state."""
    return {key.decode(): _plain_value(value) for key, value in table.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, bool) else plain(value)
