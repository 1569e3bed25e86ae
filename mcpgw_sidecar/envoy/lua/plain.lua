-- For a client that takes no event stream: the answer alone, as JSON, of a server that gives a stream.
-- What else the stream brings (progress, requests) such a client cannot get. Stands behind json.lua and
-- failed.lua in one filter.
local MAX_EVENT = 4194304 -- bytes of an event

-- The response in an event's data, with the request's own id, whose spelling may differ; nil if it is none.
-- The stream of a POST brings one response.
local function response_in(data, id)
  local is_response, first, last = false, nil, nil
  local whole = is_object(data, function(s, key, at)
    local stop = value_end(s, at)
    if key == 'id' then first, last = at, stop end
    if key == 'result' or key == 'error' then is_response = true end
    return stop
  end)
  if whole then return is_response and first and data:sub(1, first - 1) .. id .. data:sub(last + 1) or nil end
  return not find(data, '"method"', 1, true) and walk_on(new_walk(), data, 1, #data, id) and data or nil -- deeper than json.lua looks
end

function json_instead(handle, call)
  local headers = handle:headers()
  if headers:get('content-encoding') then return end -- compressed bytes pass unchanged
  headers:replace('content-type', JSON)
  headers:remove('content-length')
  local pieces, size, data, answer, is_done = {}, 0, {}, nil, false
  local function take(line)
    if line == '' then
      answer = #data > 0 and response_in(table.concat(data, '\n'), call[ID]) or nil
      data, size = {}, 0
    elseif sub(line, 1, 5) == 'data:' then
      data[#data + 1] = line:match('^data: ?(.*)')
      size = size + #line
    end
  end
  for chunk in handle:bodyChunks() do
    local length, out = chunk:length(), ''
    local bytes = length > 0 and not is_done and chunk:getBytes(0, length) or ''
    local stop = bytes:match('^.*()[\r\n]')
    if stop then
      pieces[#pieces + 1] = sub(bytes, 1, stop)
      local text = table.concat(pieces):gsub('\r\n?', '\n'):gsub('^\239\187\191', '')
      pieces = {sub(bytes, stop + 1)}
      for line in text:gmatch('([^\n]*)\n') do
        if not answer then take(line) end
      end
      bytes = pieces[1]
    elseif bytes ~= '' then
      pieces[#pieces + 1] = bytes
    end
    if bytes ~= '' then size = size + #bytes end
    if not is_done and not answer and length == 0 then answer = broken_off(call, 'ended its event stream before the answer') end
    if not is_done and not answer and size > MAX_EVENT then answer = broken_off(call, 'sent too large an event for a client without streams') end
    if answer and not is_done then
      out, is_done, pieces, data = answer, true, nil, nil
    end
    chunk:setBytes(out)
  end
end
