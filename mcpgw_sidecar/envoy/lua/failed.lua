-- What a client gets instead of an answer that is none: a JSON-RPC error with HTTP 200. Transports in the
-- field take a 4xx or 5xx for the end of the whole session, with all other servers in it.
-- Stands behind json.lua in one filter.
local MAX_WORDS = 200 -- bytes of the server's message in ours

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

local function server_of(call) return call[OWNER]:match(' ([^:]*)') end

-- Whether a call is of the stateless era: it has no session (extproc/codec.py).
local function is_stateless(call) return sub(call[OWNER], 1, 2) == '- ' end

local function error_text(call, reason, said, status)
  local server, code = server_of(call), is_stateless(call) and INTERNAL_ERROR or SERVER_ERROR
  return '{"jsonrpc":"2.0","id":' .. call[ID] .. ',"error":{"code":' .. code .. ',"message":"MCP server ' .. server .. ' ' .. said ..
    '","data":{"server":"' .. server .. '","reason":"' .. reason .. '"' .. (status and ',"status":' .. status or '') .. '}}}'
end

-- The error for an event stream without the answer; `said` is what the server did.
function broken_off(call, said) return error_text(call, BROKEN_OFF, said) end

-- The error for an answer that does not reach the client.
function kept_back(call, said) return error_text(call, BAD_ANSWER, said) end

-- Whether a server's words, which refused.lua has kept, are its own answer to this call.
function is_own(call)
  return error_of(call[REFUSED].body) == call[ID]
end

-- The status, the body and the reason (for log and counters) that a client gets for what refused.lua has kept.
function failure(call)
  local status = call[REFUSED].status
  local class, reason = sub(status, 1, 1), BAD_ANSWER
  if status == '401' or status == '403' then reason = UNAUTHORIZED elseif class == '3' then reason = REDIRECT end
  if call[OWNER]:sub(1, 1) == ' ' then -- a stream that cannot be resumed, or a client's answer, which nobody answers
    return call[ID] == 'null' and '405' or '202', '', reason
  end
  local id, words = error_of(call[REFUSED].body)
  if id == call[ID] and class ~= '2' then -- 4xx has a meaning in the stateless era, and costs no session
    return is_stateless(call) and class == '4' and status or '200', call[REFUSED].body, RPC_ERROR
  end
  local said = 'answered HTTP ' .. status .. (words and ': ' .. words or '')
  if reason == UNAUTHORIZED then
    said = said .. ': send the Authorization that it asks for, if its forwardHeaders names it'
  end
  if reason == REDIRECT then said = 'redirects instead of answering: tell the operator of this gateway' end
  if class == '2' then said = 'answered neither with JSON nor with events' end
  return '200', error_text(call, reason, said, status), reason
end
