-- A response filter for the event streams of MCP servers.
-- A server may send requests to the client there (elicitation, sampling, roots, ping). Each counts its ids on its own, so the id of such
-- a request is made to name its owner, the server and the session with it: 7 becomes "mcpgw:ns/one:<ticket>:7". The client answers with
-- that id, and whoever gets the answer, the router of any replica after any restart, knows where it belongs. No table anywhere. So it
-- is with the token of such a request for progress, and with the ids of events, from which a client resumes a stream.
-- (mcpgw_sidecar/protocol/owners.py has the table, and reads what is written here.)
-- Works on lines: a message is one line `data: {...}`. What it does not understand (a message over several lines, a line over LIMIT)
-- passes as it came; an unfinished line is held back until it ends (LF, CR or both: WHATWG HTML, section 9.2).
local LIMIT = 1048576

-- End of the string whose opening quote stands at i.
local function string_end(s, i)
  i = i + 1
  while true do
    local j = s:find('["\\]', i)
    if not j then return nil end
    if s:byte(j) == 34 then return j end
    i = j + 2
  end
end

-- Index behind the value that starts at i.
local function skip_value(s, i)
  local c = s:byte(i)
  if c == 34 then
    local e = string_end(s, i)
    return e and e + 1
  end
  if c ~= 123 and c ~= 91 then return s:find('[,}%]%s]', i) end
  local depth = 0
  while true do
    local j = s:find('["%[%]{}]', i)
    if not j then return nil end
    local d = s:byte(j)
    if d == 34 then
      j = string_end(s, j)
      if not j then return nil end
    elseif d == 123 or d == 91 then
      depth = depth + 1
    else
      depth = depth - 1
      if depth == 0 then return j + 1 end
    end
    i = j + 1
  end
end

-- Calls visit(key, first, last) for each member of the object at i; the index behind the object, nil if it is none.
local function members(s, i, visit)
  if s:byte(i) ~= 123 then return nil end
  i = s:find('%S', i + 1)
  if i and s:byte(i) == 125 then return i + 1 end
  while i and s:byte(i) == 34 do
    local e = string_end(s, i)
    local colon = e and s:find('%S', e + 1)
    local first = colon and s:byte(colon) == 58 and s:find('%S', colon + 1)
    local stop = first and skip_value(s, first)
    if not stop then return nil end
    visit(s:sub(i + 1, e - 1), first, stop - 1)
    local after = s:find('%S', stop)
    local d = after and s:byte(after)
    if d == 125 then return after + 1 end
    if d ~= 44 then return nil end
    i = s:find('%S', after + 1)
  end
end

local function named(text, first, last, owner)
  if not first then return text end
  local raw = text:sub(first, last):gsub('[\\"]', '\\%0')
  return text:sub(1, first - 1) .. '"mcpgw:' .. owner .. ':' .. raw .. '"' .. text:sub(last + 1)
end

-- A server's message in which what comes back names its owner; any other message as it is.
function name_owner(message, owner)
  local method, params, first, last, meta, token, token_end
  local start = message:find('%S')
  local stop = start and members(message, start, function(key, a, b)
    if key == 'method' then method = message:sub(a, b)
    elseif key == 'id' then first, last = a, b
    elseif key == 'params' then params = a end
  end)
  if not stop or message:find('%S', stop) or not method then return message end
  if not first then
    if method == '"notifications/cancelled"' and params then
      members(message, params, function(key, a, b) if key == 'requestId' then first, last = a, b end end)
    end
    return named(message, first, last, owner)
  end
  if params then members(message, params, function(key, a) if key == '_meta' then meta = a end end) end
  if meta then members(message, meta, function(key, a, b) if key == 'progressToken' then token, token_end = a, b end end) end
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

function envoy_on_response(handle)
  local call = handle:streamInfo():dynamicMetadata():get('mcpgw')
  local kind = handle:headers():get('content-type')
  if call == nil or call['owner'] == nil or kind == nil or kind:sub(1, 17) ~= 'text/event-stream' then return end
  if handle:headers():get('content-encoding') then return end -- bytes that are no text: they pass as they came
  handle:headers():remove('content-length') -- what is renamed gets longer
  local held = ''
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    local bytes = size > 0 and chunk:getBytes(0, size) or ''
    if size == 0 then
      if held ~= '' then chunk:setBytes(held) end -- the end of the stream: what had no end of a line passes as it came
      held = ''
    elseif held ~= '' or not bytes:find('[\r\n]$') or bytes:find('"method"', 1, true) or bytes:find('id:', 1, true) then
      local out
      out, held = name_owners(held, bytes, call['owner'])
      if out ~= bytes then chunk:setBytes(out) end
    end
  end
end
