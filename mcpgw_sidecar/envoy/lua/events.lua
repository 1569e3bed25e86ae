-- A response filter for the event streams of MCP servers.
-- There a server may send requests to the client (elicitation, sampling, roots, ping). Each server
-- counts its ids on its own, so the id of such a request is rewritten to name its owner, the server and
-- the session with it: 7 becomes "mcpgw:ns/one:<ticket>:7". The client answers with that id, and the
-- router of any replica, after any restart, reads from it where the answer belongs. There is no table
-- anywhere. The token of such a request for progress, and the ids of events, from which a client
-- resumes a stream, are rewritten in the same way. (mcpgw_sidecar/protocol/owners.py has the table,
-- and reads what is written here.)
-- A server that says on a call's stream that its lists changed is listed again; the client is told when the
-- new list is there, on its own stream, and not before.
-- The filter works on lines: a message is one line `data: {...}`. What it does not understand (a
-- message over several lines, a line over LIMIT) passes unchanged; an unfinished line is held back
-- until it ends (LF, CR or both: WHATWG HTML, section 9.2).
local LIMIT = 1048576

local function with_owner(text, first, last, owner)
  if not first then return text end
  local raw = text:sub(first, last):gsub('[\\"]', '\\%0')
  return text:sub(1, first - 1) .. '"' .. PREFIX .. owner .. ':' .. raw .. '"' .. text:sub(last + 1)
end

-- A server's message in which the ids that come back name its owner; any other message unchanged. Of
-- a repeated member the last counts.
function name_owner(message, owner)
  local method, first, last, token, token_end, request, request_end
  local function in_meta(s, key, at)
    local stop = value_end(s, at)
    if key == 'progressToken' then token, token_end = at, stop end
    return stop
  end
  local function in_params(s, key, at)
    if key == '_meta' then token = nil end
    if key == '_meta' and byte(s, at) == 123 then return members(s, at, in_meta) end
    local stop = value_end(s, at)
    if key == 'requestId' then request, request_end = at, stop end
    return stop
  end
  local whole = is_object(message, function(s, key, at)
    if key == 'params' then token, request = nil, nil end
    if key == 'params' and byte(s, at) == 123 then return members(s, at, in_params) end
    local stop = value_end(s, at)
    if key == 'method' then method = sub(s, at, stop)
    elseif key == 'id' then first, last = at, stop end
    return stop
  end)
  if not whole or not method then return message end
  if not first then
    return method == '"notifications/cancelled"' and with_owner(message, request, request_end, owner) or message
  end
  if token and token > first then
    return with_owner(with_owner(message, token, token_end, owner), first, last, owner)
  end
  return with_owner(with_owner(message, first, last, owner), token, token_end, owner)
end

local lists_changed = false -- whether the lines that were read last said so

-- Whether a message says that its server's lists changed.
local function is_change(message)
  local method
  local whole = is_object(message, function(s, key, at)
    local stop = value_end(s, at)
    if key == 'method' and stop then method = sub(s, at + 1, stop - 1) end
    return stop
  end)
  for i = 1, whole and method and #CHANGES or 0 do
    if CHANGES[i] == method then return true end
  end
  return false
end

-- The lines that `unfinished .. chunk` completes, rewritten, and what is left of the last one.
function name_owners(unfinished, chunk, owner)
  local text, out, from = unfinished .. chunk, {}, 1
  while true do
    local stop = text:find('[\r\n]', from)
    if not stop then break end
    local line = text:sub(from, stop)
    if line:sub(1, 5) == 'data:' and line:find('"method"', 1, true) then
      local message = line:sub(6, -2)
      if find(message, 'list_changed"', 1, true) and is_change(message) then
        line, lists_changed = '', true -- an event without data is none
      else
        line = 'data:' .. name_owner(message, owner) .. line:sub(-1)
      end
    elseif line:find('^id: ?[^ \r\n]') then
      local _, last = line:find('^id: ?')
      line = line:sub(1, last) .. PREFIX .. owner .. ':' .. line:sub(last + 1)
    end
    out[#out + 1], from = line, stop + 1
  end
  local rest = text:sub(from)
  if #rest > LIMIT then out[#out + 1], rest = rest, '' end
  return table.concat(out), rest
end

-- The owner of what a server sends here; nil where the stream is the broker's, which names owners itself.
local function owner_of(handle)
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  return call ~= nil and call[OWNER] ~= nil and call[OWNER]:match(' (.*)') or nil
end

-- Envoy has no attempt left for what refused.lua has kept (a request that it does not hold any more): the
-- client's answer takes the place of the server's.
local function without_attempt(handle, call)
  local status, text, reason = failure(call) -- failed.lua
  local headers = handle:headers()
  handle:streamInfo():dynamicMetadata():set(METADATA, FAILED, reason)
  headers:replace(':status', status)
  headers:replace('content-type', JSON)
  headers:remove('content-length')
  headers:remove('content-encoding')
  for chunk in handle:bodyChunks() do
    chunk:setBytes(text)
    text = ''
  end
end

-- What is to be named may stand in these bytes, or in the line that they begin.
local function may_name(bytes)
  local last = byte(bytes, -1)
  return last ~= 10 and last ~= 13 or find(bytes, '"method"', 1, true) or find(bytes, 'id:', 1, true)
end

local function name_stream(handle)
  local headers = handle:headers()
  if headers:get('content-encoding') then return end -- compressed bytes pass unchanged
  headers:remove('content-length') -- the stream gets longer
  -- The pieces of an unfinished line are put together once, when it ends: a server may send it byte by byte.
  local pieces, size, owner = {}, 0, nil -- the owner is looked for once it is needed: most streams bring one answer
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local bytes = length > 0 and chunk:getBytes(0, length) or ''
    if length == 0 then
      if size > 0 then chunk:setBytes(table.concat(pieces)) end -- the stream has ended: its last line passes unchanged
      pieces, size = {}, 0
    elseif size > 0 or may_name(bytes) then
      owner = owner or owner_of(handle)
      if not owner then return end
      if size + length <= LIMIT and not find(bytes, '[\r\n]') then
        pieces[#pieces + 1], size = bytes, size + length
        chunk:setBytes('')
      else
        local out, rest = name_owners(table.concat(pieces), bytes, owner)
        pieces, size = {rest}, #rest
        if out ~= bytes then chunk:setBytes(out) end
      end
      if lists_changed then
        lists_changed = false
        handle:httpCall(BROKER_CLUSTER, { -- which this does not wait for
          [':method'] = 'POST', [':path'] = CHANGED_PATH, [':authority'] = 'localhost', [X_SERVER] = owner:match('^[^:]*'),
        }, '', CHANGED, true)
      end
    end
  end
end

-- In listeners of ours Envoy skips this for most answers (filters.py, `messages`).
function envoy_on_response(handle)
  local headers = handle:headers()
  local mark, status, kind = headers:get(X_MEMO), headers:get(':status'), headers:get('content-type') or ''
  if mark then headers:remove(X_MEMO) end -- a word of the broker's or of heal.lua's to Envoy, whoever else may say it
  local is_stream = sub(kind, 1, #EVENT_STREAM) == EVENT_STREAM
  if mark or status == AGAIN then
    local call = handle:streamInfo():dynamicMetadata():get(METADATA) or {}
    if call[ASKED] then return mark and remember_list(handle, call[ASKED], mark) end -- lists.lua
    if remember and call[OWNER] then remember(handle, call, status) end -- memo.lua
    if status == AGAIN and call[REFUSED] then return without_attempt(handle, call) end
    if is_stream and call[PLAIN] then return json_instead(handle, call) end -- plain.lua
  end
  if is_stream then name_stream(handle) end
end
