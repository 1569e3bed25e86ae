-- An upstream filter: it runs behind the route's retry, for another attempt at a call, and for a
-- call whose answer brings a decision to remember (filters.py, `last`).
-- After an answer that refused.lua has kept, this filter asks the sidecar for a session that lives, if the
-- server may have forgotten the old one. If it has, the call never ran there, and goes out in the new
-- one. If not, the client gets its answer here, and nothing is sent twice.
-- Stands behind json.lua and failed.lua in one filter.
local function is_forgotten(status)
  for i = 1, #FORGOTTEN do
    if FORGOTTEN[i] == status then return true end
  end
  return false
end

-- A session in place of one that the server has forgotten: its id and its owner; nothing if that one lives.
local function healed(handle, call)
  local headers, token, owner = handle:headers(), call[OWNER]:match('^([^ ]+) (.*)')
  if not token or not headers:get(SESSION) or call[HEALED] or not is_forgotten(call[REFUSED].status) or is_own(call) then return end
  local question = {}
  for name, value in pairs(headers) do
    if name:sub(1, 1) ~= ':' and name ~= 'content-length' and name ~= 'transfer-encoding' then question[name] = value end
  end
  question[':method'], question[':path'], question[':authority'] = 'POST', HEAL_PATH, 'localhost'
  question[X_SESSION], question[X_OWNER] = token, owner
  question['x-envoy-retry-on'], question['x-envoy-max-retries'] = 'connect-failure,reset', '60' -- over a restart of the sidecar
  local answer, id = handle:httpCall(BROKER_CLUSTER, question, '', HEALING, false)
  if answer[':status'] == '200' then return id, token .. ' ' .. answer[X_OWNER] end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local attempt = headers:get(ATTEMPT)
  headers:remove(X_MEMO)
  if attempt == nil or attempt == '1' then return end
  local call = call_of(handle)
  if call == nil then return end -- in Istio: a request that is not for us
  headers:remove(ATTEMPT)
  if not call[REFUSED] then return end -- the connection broke before anything was sent

  local id, owner = healed(handle, call)
  local metadata = handle:streamInfo():dynamicMetadata() -- asked for anew, as all that follows: the question may have waited
  if id then
    handle:headers():replace(SESSION, id)
    metadata:set(METADATA, HEALED, call[OWNER]) -- memo.lua forgets the session that does not live
    metadata:set(METADATA, OWNER, owner) -- events.lua names the one that does
    metadata:set(METADATA, REFUSED, false)
    return
  end
  local status, body, reason = failure(call)
  metadata:set(METADATA, FAILED, reason)
  metadata:set(METADATA, REFUSAL, {outcome = OUTCOMES[reason]})
  handle:respond({[':status'] = status, ['content-type'] = JSON, [X_MEMO] = KEPT}, body)
end

-- Marks the answer for memo.lua, which looks at no other.
function envoy_on_response(handle)
  local call = call_of(handle)
  if call ~= nil and (call[OWNER] ~= nil or call[MEMO] ~= nil) then handle:headers():replace(X_MEMO, KEPT) end
end
