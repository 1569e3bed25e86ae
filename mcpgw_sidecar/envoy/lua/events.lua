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
-- The filter works on lines: a message is one line `data: {...}`. A request over several lines, or in a
-- line over LIMIT, passes unchanged; an unfinished line is held back until it ends (LF, CR or both:
-- WHATWG HTML, section 9.2). An answer to another call than this passes in no form (own.lua).
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

local MAX_CALL = 256 -- bytes of a call's id in the id of an event, which has to come back as a header

-- What the id of an event says of the call whose stream it is in: what is resumed answers that call alone.
-- nil if the call's id is too long: such a stream cannot be resumed.
local function of_call(ident)
  if not ident or ident == 'null' then return '~~' end
  if #ident > MAX_CALL then return nil end
  return '~' .. ident:gsub('.', function(char) return ('%02x'):format(byte(char)) end) .. '~'
end

-- The lines that `unfinished .. chunk` completes, rewritten, and what is left of the last one. `own` lets
-- through what is the call's own (own.lua); nil lets through all. `ident` is the id of the call.
function name_owners(unfinished, chunk, owner, own, ident)
  local text, out, from = unfinished .. chunk, {}, 1
  while true do
    local stop = text:find('[\r\n]', from)
    if not stop then break end
    local line = text:sub(from, stop)
    local is_tail = own and own.is_inside() -- of a line over LIMIT
    if own then line, out[#out + 1] = own.whole(line) end
    local ending = line:match('[\r\n]?$') -- which own.lua may have taken away for a moment
    if is_tail then -- it has begun to pass
    elseif line:sub(1, 5) == 'data:' and line:find('"method"', 1, true) then
      local message = line:sub(6, -1 - #ending)
      if find(message, 'list_changed"', 1, true) and is_change(message) then
        line, lists_changed = ':' .. ending, true -- an event without data is none; an empty line would end it
      else
        line = 'data:' .. name_owner(message, owner) .. ending
      end
    elseif line:find('^id:') then
      local _, last = line:find('^id: ?')
      local call = of_call(ident)
      if not call then line = ':' .. ending
      elseif line:find('^[^\r\n]', last + 1) then
        line = line:sub(1, last) .. PREFIX .. owner .. ':' .. call .. line:sub(last + 1)
      end
    end
    out[#out + 1], from = line, stop + 1
  end
  local rest = text:sub(from)
  if #rest > LIMIT then out[#out + 1], rest = own and own.part(rest) or rest, '' end
  return table.concat(out), rest
end

local function fail(handle, reason)
  local metadata = handle:streamInfo():dynamicMetadata() -- for log and counters
  metadata:set(METADATA, FAILED, reason)
  metadata:set(METADATA, REFUSAL, {outcome = OUTCOMES[reason]})
end

-- Another text takes the place of a server's answer.
local function instead(handle, text)
  local headers = handle:headers()
  headers:replace('content-type', JSON)
  headers:remove('content-length')
  headers:remove('content-encoding')
  for chunk in handle:bodyChunks() do
    chunk:setBytes(text)
    text = ''
  end
end

-- Of any other type some clients read other characters (a charset), or a stream.
local USUAL_JSON = {[JSON] = true, [JSON .. '; charset=utf-8'] = true, [JSON .. ';charset=utf-8'] = true}

local ENCODED = 'answered with a content-encoding that nobody asked for: its operator can turn that off, or that of this '
  .. 'gateway can trust it'

-- A JSON answer that is not this call's does not reach the client: one that is known to be small is looked
-- at as a whole, any other as it passes.
local function own_json(handle, id, kind)
  if not USUAL_JSON[kind] then handle:headers():replace('content-type', JSON) end
  local size = tonumber(handle:headers():get('content-length') or '')
  if size and size <= SMALL then
    local body = handle:body()
    local text = body and body:getBytes(0, body:length()) or ''
    if not walk_on(new_walk(), text, 1, #text, id) then
      fail(handle, BAD_ANSWER)
      body:setBytes(kept_back(call_of(handle), 'answered another call than this'))
    end
    return
  end
  local walk, is_fine = new_walk(), true
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local bytes = length > 0 and chunk:getBytes(0, length) or ''
    if is_fine and not walk_on(walk, bytes, 1, length, id) then
      is_fine = false
      fail(handle, BAD_ANSWER)
    end
    if not is_fine then chunk:setBytes((' '):rep(length)) end -- the client finds no whole message
  end
end

-- Envoy has no attempt left for what refused.lua has kept (a request that it does not hold any more): the
-- client's answer takes the place of the server's.
local function without_attempt(handle, call)
  local status, text, reason = failure(call) -- failed.lua
  fail(handle, reason)
  handle:headers():replace(':status', status)
  instead(handle, text)
end

-- What is to be named may stand in these bytes, or in the line that they begin.
local function may_name(bytes)
  local last = byte(bytes, -1)
  return last ~= 10 and last ~= 13 or find(bytes, '"method"', 1, true)
    or find(bytes, 'id:', 1, true) and (sub(bytes, 1, 3) == 'id:' or find(bytes, '[\r\n]id:'))
end

-- Whether bytes at the beginning of a line are the call's own, and may go as they are.
local function is_own_text(bytes, ident, own, has_begun)
  if own then return own.all(bytes) end
  return (has_begun or byte(bytes) ~= 239) and are_own(bytes, ident)
end

-- The stream of the call `ident`. If it `is_looked_at`, only what is the call's own passes. Most streams are
-- an event or two, and pass as they are: who owns them, and `own`, are known once something is to be changed.
local function name_stream(handle, ident, kind, is_looked_at)
  local headers = handle:headers()
  if is_looked_at and kind ~= EVENT_STREAM then headers:replace('content-type', EVENT_STREAM) end
  headers:remove('content-length') -- the stream gets longer
  -- The pieces of an unfinished line are put together once, when it ends: a server may send it byte by byte.
  local pieces, size = {}, 0
  local has_begun, own, owner = false, nil, nil
  for chunk in handle:bodyChunks() do
    local length = chunk:length()
    local bytes = length > 0 and chunk:getBytes(0, length) or ''
    if length == 0 then
      local rest = table.concat(pieces)
      if own then rest = rest == '' and own.last('') or own.part(rest) end -- HTTP/2 has empty chunks that are not the last
      if rest ~= '' then chunk:setBytes(rest) end
      pieces, size = {}, 0
    elseif size > 0 or may_name(bytes) or is_looked_at and not is_own_text(bytes, ident, own, has_begun) then
      if not owner then
        owner = call_of(handle)[OWNER]:match(' (.*)')
        own = is_looked_at and own_lines(ident, has_begun)
      end
      if size + length <= LIMIT and not find(bytes, '[\r\n]') then
        pieces[#pieces + 1], size = bytes, size + length
        chunk:setBytes('')
      else
        local out, rest = name_owners(table.concat(pieces), bytes, owner, own, ident)
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
    has_begun = has_begun or length > 0
    if own and own.has_dropped() then fail(handle, BAD_ANSWER) end
  end
end

-- In listeners of ours Envoy skips this for some answers (filters.py, `messages`): for JSON of the broker, and
-- of servers that are trusted.
function envoy_on_response(handle)
  local headers = handle:headers()
  local mark, id, status = headers:get(X_MEMO), headers:get(X_ID), headers:get(':status')
  local kind = (headers:get('content-type') or ''):lower()
  if mark then headers:remove(X_MEMO) end -- a word of ours to Envoy, whoever else may say it
  if id then headers:remove(X_ID) end
  if STAMPS == '' then id = nil end -- in Istio nobody but a server says it
  local is_stream, encoding = sub(kind, 1, #EVENT_STREAM) == EVENT_STREAM, headers:get('content-encoding')
  local is_plain = not encoding or encoding:lower() == 'identity'
  -- A hit, most often: what else is known of it is not asked.
  if id and id ~= 'null' and not mark and is_plain and status == '200' then
    if is_stream then return name_stream(handle, id, kind, true) end
    return own_json(handle, id, kind)
  end
  local call = call_of(handle)
  if not call then return end -- in Istio: a request that is not for us
  local why, said
  if mark and not call[OWNER] then why, said = mark:match('^refused (%S+) (.*)') end
  if why then -- the broker has carried a call in vain: for the log
    local refusal, names = {}, REFUSAL_MEMBERS:gmatch('%S+')
    for word in said:gmatch('%S+') do refusal[names()] = word ~= '-' and word:gsub('%%20', ' ') or nil end
    if why ~= '-' then fail(handle, why) end
    handle:streamInfo():dynamicMetadata():set(METADATA, REFUSAL, refusal)
    return
  end
  if mark and call[ASKED] then return remember_list(handle, call[ASKED], mark) end -- lists.lua
  if remember and mark == KEPT and call[MEMO] and not call[OWNER] then return remember(handle, call, status) end -- carried
  if not call[OWNER] then return end -- the broker's, which names owners itself
  if remember and (mark == KEPT or status == AGAIN) then remember(handle, call, status) end -- memo.lua
  if status == AGAIN and call[REFUSED] then return without_attempt(handle, call) end
  local is_looked_at = call[ID] ~= 'null' and (id or mark or STAMPS == '') and not call[TRUSTED] -- else trusted, or resumed, and of no call
  if not is_plain then -- nobody has asked for it
    if not is_looked_at then return end
    fail(handle, BAD_ANSWER)
    return instead(handle, kept_back(call, ENCODED))
  end
  if is_stream and call[PLAIN] then return json_instead(handle, call) end -- plain.lua
  if is_stream then return name_stream(handle, call[ID], kind, is_looked_at) end
  if not is_looked_at or status ~= '200' then return end
  own_json(handle, call[ID], kind)
end
