-- What a server gets of a client's headers: PASSES, PARAMS, and what its `forwardHeaders` names
-- (mcpgw_sidecar/protocol/passing.py). memo.lua and last.lua use it.
is_passed = {}
for _, name in ipairs(PASSES) do is_passed[name] = true end

-- The headers that a server wants, of the router's text (`passed_text`); nil for none.
function wanted_of(text)
  local wanted
  for name, required, sent in text:gmatch('([^ !=]+)(!?)=([^ ]+)') do
    wanted = wanted or {}
    wanted[#wanted + 1] = {name = name, sent = sent, required = required == '!'}
  end
  return wanted
end

-- The values of the headers that a server wants (protocol/passing.py, brought_text); nil without one that it
-- requires: the router refuses such a request. It has to learn each new value, for requests of its own.
function brought_by(headers, wanted)
  local values = {}
  for i = 1, #wanted do
    values[i] = headers:get(wanted[i].name) or ''
    if wanted[i].required and values[i] == '' then return nil end
  end
  return table.concat(values, '\n')
end

-- Removes what the server does not get (`gone`; nil: a walk over all headers finds it, which costs a call as
-- much as all else of it), and renames what it wants.
function pass(headers, wanted, gone)
  local values = wanted and {}
  for i = 1, wanted and #wanted or 0 do values[wanted[i].sent] = headers:get(wanted[i].name) end
  if not gone then
    gone = {}
    for name in pairs(headers) do -- which allows no change meanwhile
      if not is_passed[name] and name:sub(1, #PARAMS) ~= PARAMS then gone[#gone + 1] = name end
    end
  end
  for i = 1, #gone do headers:remove(gone[i]) end
  if values then
    for name, value in pairs(values) do headers:replace(name, value) end
  end
end
