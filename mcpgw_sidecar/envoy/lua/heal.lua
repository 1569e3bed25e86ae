-- An upstream filter: it runs behind the route's retry, for a second attempt at a call, and for a
-- call whose answer brings a decision to remember (filters.py, `last`).
-- A server that answers FORGOTTEN has forgotten the session; the call never ran (basic/transports,
-- Session Management). Envoy's retry sends it once more, and before that this filter asks the sidecar
-- for a session that lives. It only exchanges the session: if it fails, the attempt goes on as it is,
-- and the client sees the server's answer.
function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:get(ATTEMPT)
  headers:remove(X_MEMO)
  if attempt == nil or attempt == '1' then return end
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  if call == nil then return end -- in Istio: a request that is not for us
  headers:remove(ATTEMPT)
  local key = call[OWNER] ~= nil and call[OWNER]:match('^[^ ]+')
  if not key then return end -- a request without a session, or a stream: there is nothing to heal

  local question = {}
  for name, value in pairs(headers) do
    if name:sub(1, 1) ~= ':' and name ~= 'content-length' and name ~= 'transfer-encoding' then question[name] = value end
  end
  question[':method'], question[':path'], question[':authority'] = 'POST', HEAL_PATH, 'localhost'
  question[X_SESSION] = key
  local answer, id = handle:httpCall(BROKER_CLUSTER, question, '', HEALING, false)
  if answer[':status'] ~= '200' then return end
  handle:headers():replace(SESSION, id)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, OWNER, key .. ' ' .. answer[X_OWNER]) -- events.lua names the session that lives
  metadata:set(METADATA, HEALED, call[OWNER]) -- memo.lua forgets the one that does not
end

-- Marks the answer for memo.lua, which looks at no other.
function envoy_on_response(handle)
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  if call ~= nil and call[OWNER] ~= nil then handle:headers():replace(X_MEMO, KEPT) end
end
