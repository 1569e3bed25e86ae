-- The last filter before Envoy's own router, for requests to servers: in Istio every filter before it may
-- read headers of the client that servers do not get. Stands behind passed.lua.
function envoy_on_request(handle)
  local headers = handle:headers()
  local text = headers:get(X_PASSED)
  if not text then return end
  local wanted, subject_is_wanted = wanted_of(text), false
  for i = 1, wanted and #wanted or 0 do subject_is_wanted = subject_is_wanted or wanted[i].sent == X_SUBJECT end
  pass(headers, wanted)
  if not subject_is_wanted then headers:remove(X_SUBJECT) end -- kept until here, for limits
end
