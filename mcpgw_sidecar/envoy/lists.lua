-- Stands behind memo.lua in one filter. Lists that the broker answered once are answered by Envoy, for everybody who sees the same, as long as
-- the stamps say so; each answer brings them as `x-mcp-memo: SLOT STAMP EXPIRES` (mcpgw_sidecar/broker/app.py, `_memo`). So does initialize: a
-- new session's first list is known already.
-- Bytes: of a list, of all that are kept, of a cursor. (What is kept has the answer's last brace: one byte more than the page that WORTH is about.)
local MAX_LIST, MAX_LISTS, MAX_CURSOR = 1048576, 16777216, 512
LISTED = {
  initialize = true, ['tools/list'] = true, ['prompts/list'] = true, ['resources/list'] = true, ['resources/templates/list'] = true,
}

-- A request for the broker, whose answer may be known.
function list(handle, headers, text)
  local what = method
  if method ~= 'initialize' and params and params_end - params > 1 then
    what = method .. sub(text, params, params_end)
    if #what > MAX_CURSOR or not find(what, '{"cursor": ?"[%w_=-]+"}$') then return end
  end
  local kind = headers:get('content-type') or 'application/json'
  if kind ~= 'application/json' and sub(kind, 1, 17) ~= 'application/json;' then return end -- the broker has something to say
  local known, told = known_of(headers), handle:streamInfo():dynamicMetadata()
  local found = known and known.view.lists[what]
  if found and not (#found > WORTH and find(headers:get('accept-encoding') or '', 'gzip', 1, true)) and holds(known) then
    told:set('mcpgw', 'answered', '1')
    headers:replace('x-mcp-servername', 'mcpEnvoy') -- for log and counters: who answered
    handle:respond({[':status'] = '200', ['content-type'] = 'application/json', vary = #found > WORTH and 'accept-encoding' or nil},
      '{"jsonrpc":"2.0","id":' .. sub(text, id, id_end) .. ',"result":' .. found)
  end
  told:set('mcpgw', 'asked', {
    host = headers:get(':authority'), path = headers:get(':path'), origin = headers:get('origin'),
    virtual = headers:get('x-mcp-virtualserver'), version = headers:get('mcp-protocol-version') or '',
    token = headers:get('mcp-session-id'), what = what,
  })
end

-- The broker has answered; `stamped` is what it says of how long that holds.
function remember_list(handle, asked, stamped)
  local headers = handle:headers()
  local slot, stamp_then, expires = stamped:match('^(%d+) (%x+) (%d+)$')
  local token = headers:get('mcp-session-id') or asked.token
  local known = slot and token and learn(token, asked, tonumber(slot), stamp_then, tonumber(expires))
  local size = #asked.what + (tonumber(headers:get('content-length')) or MAX_LIST)
  if not known or asked.what == 'initialize' or known.view.lists[asked.what] or headers:get('content-encoding') or size >= MAX_LIST then
    return
  end
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ''
  local _, last = find(text, '^{"jsonrpc":"2.0","id":.-,"result":')
  if not last or not holds(known) then return end
  if kept + size > MAX_LISTS then
    for _, view in pairs(views) do view.lists = {} end
    kept = 0
  end
  kept = kept + size
  known.view.lists[asked.what] = sub(text, last + 1)
end
