-- The last filter before Envoy's own router, for requests to servers: in Istio every filter before it may
-- read headers of the client that servers do not get. Stands behind passed.lua.
function envoy_on_request(handle)
  local headers = handle:headers()
  local text = headers:get(X_PASSED)
  if text then pass(headers, wanted_of(text)) end
end
