-- An upstream filter: it runs behind the route's retry, for a second attempt at a call, and for a call whose answer brings a decision to
-- remember (filters.py, `last`).
-- A server that answers 404 has forgotten the session; the call never ran (basic/transports, Session Management). Envoy's retry
-- sends it once more, and this filter asks the sidecar for a session that lives before that happens.
-- It only exchanges the session: an error in here lets the attempt go on as it is, and the client sees the 404.
function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:get('x-envoy-attempt-count')
  headers:remove('x-mcp-memo')
  if attempt == nil or attempt == '1' then return end
  local call = handle:streamInfo():dynamicMetadata():get('mcpgw')
  if call == nil then return end -- in Istio: a request that is not for us
  headers:remove('x-envoy-attempt-count')
  local key = call['session'] ~= nil and call['session']:match('^[^ ]+')
  if not key then return end -- nobody's, or a stream: nothing to heal

  local asked = {}
  for name, value in pairs(headers) do
    if name:sub(1, 1) ~= ':' and name ~= 'content-length' and name ~= 'transfer-encoding' then asked[name] = value end
  end
  asked[':method'], asked[':path'], asked[':authority'] = 'POST', '/heal', 'localhost'
  asked['x-mcp-session'] = key
  local answer, id = handle:httpCall('mcpgw_broker', asked, '', 11000, false)
  if answer[':status'] ~= '200' then return end
  handle:headers():replace('mcp-session-id', id)
  local told = handle:streamInfo():dynamicMetadata()
  told:set('mcpgw', 'session', key .. ' ' .. answer['x-mcp-owner']) -- events.lua names the session that lives
  told:set('mcpgw', 'healed', call['session']) -- memo.lua forgets the one that does not
end

-- memo.lua looks only at what it is told to: an answer that changes nothing costs no look.
function envoy_on_response(handle)
  local call = handle:streamInfo():dynamicMetadata():get('mcpgw')
  if call ~= nil and call['session'] ~= nil then handle:headers():replace('x-mcp-memo', 'call') end
end
