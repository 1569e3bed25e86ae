-- What our own routes say (routes.py), for gateways whose routes are Istio's: a call that has
-- certainly not run may be sent once more, and no client sees HIDDEN headers of a server.
function envoy_on_request(handle)
  local headers = handle:headers()
  local server = headers:get(X_SERVER)
  if server == nil or server == BROKER then return end
  local theirs = {}
  for name in pairs(headers) do
    if name:sub(1, 8) == 'x-envoy-' then theirs[#theirs + 1] = name end -- Envoy obeys them, and a client may have sent them
  end
  for _, name in ipairs(theirs) do headers:remove(name) end
  headers:add('x-envoy-retry-on', RETRY_ON)
  headers:add('x-envoy-retriable-status-codes', AGAIN)
  headers:add('x-envoy-max-retries', tostring(ATTEMPTS))
end

function envoy_on_response(handle)
  local call = call_of(handle)
  if call == nil or call[OWNER] == nil then return end
  local headers = handle:headers()
  for i = 1, #HIDDEN do headers:remove(HIDDEN[i]) end
end
