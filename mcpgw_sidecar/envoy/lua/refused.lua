-- An upstream filter for answers with a status of FORGOTTEN (filters.py, `last`): the server may not
-- know its session any more. The answer is kept and the call is sent once more, and then heal.lua asks
-- whether that is so.
local MAX_KEPT, sub = 65536, string.sub -- bytes of an answer

local function is_forgotten(status)
  for _, each in ipairs(FORGOTTEN) do
    if each == status then return true end
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  headers:remove(X_RETRY) -- not the server's to say
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  if call == nil or call[REFUSED] or not is_forgotten(headers:get(':status')) then return end
  if not (call[OWNER] and call[OWNER]:find('^[^ ]')) then return end -- no call of a session
  local kind, size = headers:get('content-type') or '', tonumber(headers:get('content-length') or 0)
  local kept = {[':status'] = headers:get(':status'), ['content-type'] = kind}
  local body = size <= MAX_KEPT and sub(kind, 1, #EVENT_STREAM) ~= EVENT_STREAM and handle:body()
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, REFUSED, {headers = kept, body = body and body:getBytes(0, body:length()) or ''})
  handle:headers():replace(X_RETRY, '1') -- asked for anew: body() waits, and what was given before is gone then
end
