-- An upstream filter for what is no answer to a call (filters.py, `last`): a status that is no success, or
-- neither JSON nor an event stream. It keeps what is small of it, and tells Envoy by the status AGAIN to
-- make another attempt. Nothing is sent in that: heal.lua gives the client its answer, or a session that
-- lives to the call. So a body that is huge, or never ends, is left where it is.
local MAX_KEPT = 65536 -- bytes of a body

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, kind = headers:get(':status'), (headers:get('content-type') or ''):lower()
  if status == AGAIN then headers:replace(':status', '500') end -- not the server's to say
  if status == '200' and (kind:sub(1, #JSON) == JSON or kind:sub(1, #EVENT_STREAM) == EVENT_STREAM) then return end
  local call = call_of(handle)
  if call == nil or call[OWNER] == nil then return end -- in Istio: a request that is not for us
  if call[OWNER]:sub(1, 1) == ' ' and status:sub(1, 1) == '2' then return end -- nobody answers an answer
  local size = tonumber(headers:get('content-length') or '')
  local readable = size and size > 0 and size <= MAX_KEPT and not headers:get('content-encoding')
  local body = readable and handle:body()
  handle:streamInfo():dynamicMetadata():set(METADATA, REFUSED, {
    status = status == AGAIN and '500' or status, body = body and body:getBytes(0, body:length()) or '',
  })
  handle:headers():replace(':status', AGAIN) -- asked for anew: body() waits, and what was given before is gone then
end
