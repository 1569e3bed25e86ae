-- An upstream filter for answers that are no success (filters.py, `last`). After a status of FORGOTTEN
-- the server may not know its session any more: the answer is kept, Envoy is told by the status AGAIN
-- to make another attempt, and before that heal.lua asks whether it is so.
local MAX_KEPT, sub = 65536, string.sub -- bytes of an answer

local function is_forgotten(status)
  for _, each in ipairs(FORGOTTEN) do
    if each == status then return true end
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status = headers:get(':status')
  if status == AGAIN then headers:replace(':status', '500') end -- not the server's to say
  if not is_forgotten(status) then return end
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  if call == nil or call[REFUSED] then return end
  if not (call[OWNER] and call[OWNER]:find('^[^ ]')) then return end -- no call of a session
  local kind, size = headers:get('content-type') or '', tonumber(headers:get('content-length') or 0)
  local kept = {[':status'] = status, ['content-type'] = kind}
  local body = size <= MAX_KEPT and sub(kind, 1, #EVENT_STREAM) ~= EVENT_STREAM and handle:body()
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, REFUSED, {headers = kept, body = body and body:getBytes(0, body:length()) or ''})
  handle:headers():replace(':status', AGAIN) -- asked for anew: body() waits, and what was given before is gone then
end
