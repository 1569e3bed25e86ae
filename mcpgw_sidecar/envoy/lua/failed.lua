-- A server's answer that is none, as a client can bear it: a JSON-RPC error with HTTP 200. Transports
-- in the field take a 4xx or 5xx for the end of the whole session, with all other servers in it.
-- Stands behind json.lua in one filter.
local MAX_READ, MAX_WORDS = 65536, 200 -- bytes of a body that is looked at, and of the server's message in ours

-- The raw id of a message that is an error, and the server's words, both as JSON; nothing for any other text.
local function error_of(text)
  local id, is_error, words
  local function in_error(s, key, at)
    local stop = value_end(s, at)
    if key == 'message' and stop and byte(s, at) == 34 and stop - at < MAX_WORDS then words = sub(s, at + 1, stop - 1) end
    return stop
  end
  local rest = is_object(text, function(s, key, at)
    if key == 'error' and byte(s, at) == 123 then
      is_error = true
      return members(s, at, in_error)
    end
    local stop = value_end(s, at)
    if key == 'id' and stop then id = sub(s, at, stop) end
    return stop
  end)
  if rest and is_error and is_utf8(text, rest) then return id, words end
end

local function reason_of(status)
  if status == '401' or status == '403' then return UNAUTHORIZED end
  return sub(status, 1, 1) == '3' and REDIRECT or BAD_ANSWER
end

local function error_text(id, server, reason, status, words)
  local said = ' answered HTTP ' .. status .. (words and ': ' .. words or '')
  if reason == REDIRECT then said = ' redirects instead of answering: tell the operator of this gateway' end
  if sub(status, 1, 1) == '2' then said = ' answered neither with JSON nor with events' end
  return '{"jsonrpc":"2.0","id":' .. id .. ',"error":{"code":' .. SERVER_ERROR .. ',"message":"MCP server ' .. server .. said ..
    '","data":{"server":"' .. server .. '","reason":"' .. reason .. '","status":' .. status .. '}}}'
end

-- The error for an event stream that ended without the answer.
function broken_off(id, server)
  return '{"jsonrpc":"2.0","id":' .. id .. ',"error":{"code":' .. SERVER_ERROR .. ',"message":"MCP server ' .. server ..
    ' ended its event stream before the answer","data":{"server":"' .. server .. '","reason":"' .. BROKEN_OFF .. '"}}}'
end

-- The body, if it is one that is read here; '' for none. It waits: headers that were given before are gone then.
local function read(handle, kind)
  local headers = handle:headers()
  local size = tonumber(headers:get('content-length') or 0)
  if size > MAX_READ or sub(kind, 1, #EVENT_STREAM) == EVENT_STREAM or headers:get('content-encoding') then return nil, '' end
  local buffer = handle:body(true)
  return buffer, buffer:getBytes(0, buffer:length())
end

-- Puts a text in the place of the body.
local function replace_body(handle, buffer, text)
  if buffer then
    buffer:setBytes(text) -- and content-length
    return
  end
  handle:headers():remove('content-length')
  for chunk in handle:bodyChunks() do
    if chunk:length() > 0 then
      chunk:setBytes(text)
      text = ''
    end
  end
end

-- `call` is the metadata of a request that a server has answered with `status`, and `kind` the answer's content type.
function failed(handle, call, status, kind)
  if status == AGAIN and call[REFUSED] then status = call[REFUSED].headers[':status'] end -- Envoy has no attempt left
  local is_success = sub(status, 1, 1) == '2'
  local token, server = call[OWNER]:match('^([^ ]*) ([^:]*)')
  if token == '' then -- a stream that cannot be resumed, or a client's answer, which nobody answers
    if is_success then return end
    handle:streamInfo():dynamicMetadata():set(METADATA, FAILED, reason_of(status))
    local buffer = read(handle, kind)
    handle:headers():replace(':status', call[ID] == 'null' and '405' or '202')
    return replace_body(handle, buffer, '')
  end
  local reason, buffer, text = reason_of(status), read(handle, kind)
  local id, words = error_of(text)
  if id == call[ID] and not is_success then
    reason = RPC_ERROR
  else
    text = error_text(call[ID], server, reason, status, words)
  end
  handle:streamInfo():dynamicMetadata():set(METADATA, FAILED, reason)
  local headers = handle:headers()
  headers:replace(':status', '200')
  headers:replace('content-type', JSON)
  for _, name in ipairs({'location', 'www-authenticate', 'content-encoding'}) do headers:remove(name) end
  replace_body(handle, buffer, text)
end
