-- A response filter for the event streams of MCP servers.
-- A server may send requests to the client there (elicitation, sampling, roots, ping). Each counts its ids on its own, so the id of such
-- a request is made to name its owner, the server and the session with it: 7 becomes "mcpgw:ns/one:<ticket>:7". The client answers with
-- that id, and whoever gets the answer, the router of any replica after any restart, knows where it belongs. No table anywhere. So it
-- is with the token of such a request for progress, and with the ids of events, from which a client resumes a stream.
-- (mcpgw_sidecar/protocol/owners.py has the table, and reads what is written here.)
-- Works on lines: a message is one line `data: {...}`. What it does not understand (a message over several lines, a line over LIMIT)
-- passes as it came; an unfinished line is held back until it ends (LF, CR or both: WHATWG HTML, section 9.2).
local LIMIT = 1048576

local function named(text, first, last, owner)
  if not first then return text end
  local raw = text:sub(first, last):gsub('[\\"]', '\\%0')
  return text:sub(1, first - 1) .. '"mcpgw:' .. owner .. ':' .. raw .. '"' .. text:sub(last + 1)
end

-- A server's message in which what comes back names its owner; any other message as it is. Of a repeated member the last counts.
function name_owner(message, owner)
  local method, first, last, token, token_end, ended, ended_end
  local function in_meta(s, key, at)
    local stop = value_end(s, at)
    if key == 'progressToken' then token, token_end = at, stop end
    return stop
  end
  local function in_params(s, key, at)
    if key == '_meta' then token = nil end
    if key == '_meta' and byte(s, at) == 123 then return members(s, at, in_meta) end
    local stop = value_end(s, at)
    if key == 'requestId' then ended, ended_end = at, stop end
    return stop
  end
  local whole = is_object(message, function(s, key, at)
    if key == 'params' then token, ended = nil, nil end
    if key == 'params' and byte(s, at) == 123 then return members(s, at, in_params) end
    local stop = value_end(s, at)
    if key == 'method' then method = sub(s, at, stop)
    elseif key == 'id' then first, last = at, stop end
    return stop
  end)
  if not whole or not method then return message end
  if not first then
    return method == '"notifications/cancelled"' and named(message, ended, ended_end, owner) or message
  end
  if token and token > first then
    return named(named(message, token, token_end, owner), first, last, owner)
  end
  return named(named(message, first, last, owner), token, token_end, owner)
end

-- The lines that `held .. chunk` completes, renamed, and what is left of the last one.
function name_owners(held, chunk, owner)
  local text, out, from = held .. chunk, {}, 1
  while true do
    local stop = text:find('[\r\n]', from)
    if not stop then break end
    local line = text:sub(from, stop)
    if line:sub(1, 5) == 'data:' and line:find('"method"', 1, true) then
      line = 'data:' .. name_owner(line:sub(6, -2), owner) .. line:sub(-1)
    elseif line:find('^id: ?[^ \r\n]') then
      local _, last = line:find('^id: ?')
      line = line:sub(1, last) .. 'mcpgw:' .. owner .. ':' .. line:sub(last + 1)
    end
    out[#out + 1], from = line, stop + 1
  end
  local rest = text:sub(from)
  if #rest > LIMIT then out[#out + 1], rest = rest, '' end
  return table.concat(out), rest
end

-- The owner of what a server sends here; nil where the stream is the broker's, which names them itself.
local function owner_of(handle)
  local call = handle:streamInfo():dynamicMetadata():get('mcpgw')
  return call ~= nil and call['session'] ~= nil and call['session']:match(' (.*)') or nil
end

local function name_stream(handle)
  local headers = handle:headers()
  if headers:get('content-encoding') then return end -- those are bytes that are no text: they pass as they came
  headers:remove('content-length') -- what is renamed gets longer
  local held, owner = '', nil -- looked for when there is something to name: most streams bring one answer
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    local bytes = size > 0 and chunk:getBytes(0, size) or ''
    local last = byte(bytes, -1)
    if size == 0 then
      if held ~= '' then chunk:setBytes(held) end -- the end of the stream: what had no end of a line passes as it came
      held = ''
    elseif held ~= '' or last ~= 10 and last ~= 13 or find(bytes, '"method"', 1, true) or find(bytes, 'id:', 1, true) then
      owner = owner or owner_of(handle)
      if not owner then return end
      local out
      out, held = name_owners(held, bytes, owner)
      if out ~= bytes then chunk:setBytes(out) end
    end
  end
end

-- In listeners of ours Envoy skips it for most answers that bring nothing to name, to keep or to forget (filters.py, `messages`).
function envoy_on_response(handle)
  local headers = handle:headers()
  local told, status = headers:get('x-mcp-memo'), headers:get(':status')
  if told then headers:remove('x-mcp-memo') end -- the broker's word to Envoy, or heal.lua's, whoever else may say it
  if told or status == '404' or status == '401' then
    local call = handle:streamInfo():dynamicMetadata():get('mcpgw') or {}
    if call['asked'] then return told and remember_list(handle, call['asked'], told) end -- lists.lua
    if remember and call['session'] then remember(handle, call, status) end -- memo.lua
  end
  if sub(headers:get('content-type') or '', 1, 17) == 'text/event-stream' then name_stream(handle) end
end
