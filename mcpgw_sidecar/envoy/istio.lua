-- What our own routes say (routes.py), for gateways whose routes are Istio's: a call that has certainly not run may be tried once
-- more, and no client sees the session of a server.
function envoy_on_request(handle)
  local headers = handle:headers()
  local server = headers:get('x-mcp-servername')
  if server == nil or server == 'mcpBroker' then return end
  local theirs = {}
  for name in pairs(headers) do
    if name:sub(1, 8) == 'x-envoy-' then theirs[#theirs + 1] = name end -- Envoy obeys them, and a client may have sent them
  end
  for _, name in ipairs(theirs) do headers:remove(name) end
  headers:add('x-envoy-retry-on', 'connect-failure,refused-stream,reset-before-request,retriable-status-codes')
  headers:add('x-envoy-retriable-status-codes', '404')
  headers:add('x-envoy-max-retries', '1')
end

function envoy_on_response(handle)
  local call = handle:streamInfo():dynamicMetadata():get('mcpgw')
  if call ~= nil and call['session'] ~= nil then handle:headers():remove('mcp-session-id') end
end
