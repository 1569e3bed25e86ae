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

-- A server's message in which what comes back names its owner; any other message as it is.
function name_owner(message, owner)
  local method, params, first, last, meta, token, token_end
  local whole = is_object(message, function(_, key, a, b)
    if key == 'method' then method = sub(message, a, b)
    elseif key == 'id' then first, last = a, b
    elseif key == 'params' then params = a end
  end)
  if not whole or not method then return message end
  if not first then
    if method == '"notifications/cancelled"' and params then
      members(message, params, function(_, key, a, b) if key == 'requestId' then first, last = a, b end end)
    end
    return named(message, first, last, owner)
  end
  if params then members(message, params, function(_, key, a) if key == '_meta' then meta = a end end) end
  if meta then members(message, meta, function(_, key, a, b) if key == 'progressToken' then token, token_end = a, b end end) end
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
  local headers, call = handle:headers(), handle:streamInfo():dynamicMetadata():get('mcpgw')
  local stamped = headers:get('x-mcp-memo')
  if stamped then headers:remove('x-mcp-memo') end -- the broker's word to Envoy, whoever else may say it
  if call == nil then return end
  if call['asked'] then return stamped and remember_list(handle, call['asked'], stamped) end -- lists.lua
  if call['session'] == nil then return end
  if remember then remember(handle, call) end -- memo.lua
  local kind = handle:headers():get('content-type')
  if kind == nil or kind:sub(1, 17) ~= 'text/event-stream' then return end
  if handle:headers():get('content-encoding') then return end -- bytes that are no text: they pass as they came
  handle:headers():remove('content-length') -- what is renamed gets longer
  local held, owner = '', call['session']:match(' (.*)')
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    local bytes = size > 0 and chunk:getBytes(0, size) or ''
    if size == 0 then
      if held ~= '' then chunk:setBytes(held) end -- the end of the stream: what had no end of a line passes as it came
      held = ''
    elseif held ~= '' or not bytes:find('[\r\n]$') or bytes:find('"method"', 1, true) or bytes:find('id:', 1, true) then
      local out
      out, held = name_owners(held, bytes, owner)
      if out ~= bytes then chunk:setBytes(out) end
    end
  end
end
