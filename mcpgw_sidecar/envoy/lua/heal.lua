-- An upstream filter: it runs behind the route's retry, for another attempt at a call, and for a
-- call whose answer brings a decision to remember (filters.py, `last`).
-- After an answer that refused.lua has kept, this filter asks the sidecar for a session that lives.
-- If the server has forgotten the old one, the call never ran there, and goes out in the new one. If
-- not, the server's answer was one, and nothing is sent twice.
function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:get(ATTEMPT)
  headers:remove(X_MEMO)
  if attempt == nil or attempt == '1' then return end
  local metadata = handle:streamInfo():dynamicMetadata()
  local call = metadata:get(METADATA)
  if call == nil then return end -- in Istio: a request that is not for us
  headers:remove(ATTEMPT)
  local refused = call[REFUSED]
  if not refused or call[HEALED] then return end -- the connection broke before anything was sent

  local token, owner = call[OWNER]:match('^([^ ]+) (.*)')
  local question = {}
  for name, value in pairs(headers) do
    if name:sub(1, 1) ~= ':' and name ~= 'content-length' and name ~= 'transfer-encoding' then question[name] = value end
  end
  question[':method'], question[':path'], question[':authority'] = 'POST', HEAL_PATH, 'localhost'
  question[X_SESSION], question[X_OWNER] = token, owner
  local answer, id = nil, nil
  if headers:get(SESSION) then answer, id = handle:httpCall(BROKER_CLUSTER, question, '', HEALING, false) end
  if not answer or answer[':status'] ~= '200' then
    handle:respond(refused.headers, refused.body)
    return
  end
  handle:headers():replace(SESSION, id) -- asked for anew, since the call above waited
  metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, HEALED, call[OWNER]) -- memo.lua forgets the session that does not live
  metadata:set(METADATA, OWNER, token .. ' ' .. answer[X_OWNER]) -- events.lua names the one that does
end

-- Marks the answer for memo.lua, which looks at no other.
function envoy_on_response(handle)
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  if call ~= nil and call[OWNER] ~= nil then handle:headers():replace(X_MEMO, KEPT) end
end
