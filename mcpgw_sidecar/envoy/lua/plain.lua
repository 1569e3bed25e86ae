-- For a client that takes no event stream: the answer alone, as JSON, of a server that gives a stream.
-- What else the stream brings (progress, requests) such a client cannot get. Stands behind json.lua and
-- failed.lua in one filter.

-- Whether a message is the response to the request with this raw id.
local function answers(text, id)
  local is_response, found = false, nil
  local whole = is_object(text, function(s, key, at)
    local stop = value_end(s, at)
    if key == 'id' and stop then found = sub(s, at, stop) end
    if key == 'result' or key == 'error' then is_response = true end
    return stop
  end)
  return whole and is_response and found == id
end

-- The answer to the request in the whole text of an event stream; nil without one.
local function answer_in(text, id)
  local data = {}
  for line in (text .. '\n\n'):gsub('\r\n?', '\n'):gmatch('([^\n]*)\n') do
    if sub(line, 1, 5) == 'data:' then
      data[#data + 1] = sub(line, 6)
    elseif line == '' then
      local message = table.concat(data, '\n')
      if message ~= '' and answers(message, id) then return message end
      data = {}
    end
  end
end

function json_instead(handle, call)
  local headers, server = handle:headers(), call[OWNER]:match(' ([^:]*)')
  headers:replace('content-type', JSON)
  headers:remove('content-length')
  local pieces = {}
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      pieces[#pieces + 1] = chunk:getBytes(0, size)
      chunk:setBytes('')
    else
      chunk:setBytes(answer_in(table.concat(pieces), call[ID]) or broken_off(call[ID], server))
      pieces = {}
    end
  end
end
