-- What is known of a call: its metadata. A hit brings the owner with what the access log says of its caller,
-- because each value that is set costs a call as much as two dozen lines of Lua.
local function call_of(handle)
  local call = handle:streamInfo():dynamicMetadata():get(METADATA)
  local about = call and call[WHO]
  if about and call[OWNER] == nil then call[OWNER] = about.owner end
  return call
end
