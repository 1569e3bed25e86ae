-- Stands behind memo.lua and gzip.lua in one filter. Lists that the broker answered once are answered by Envoy, for everybody who sees the same, as long as
-- the stamps say so; each answer brings them as `x-mcp-memo: SLOT STAMP EXPIRES` (mcpgw_sidecar/broker/app.py, `_memo`). So does initialize: a
-- new session's first list is known already. A large list that the broker gave in gzip is given so to whoever sends an Accept-Encoding that got gzip
-- before; its answer brings two checksums too, for gzip.lua.
-- Bytes: of a list, of all that are kept, of a cursor, of an Accept-Encoding (those of browsers and clients have 12 to 30); how many of those.
-- (What is kept as text has the answer's last brace: one byte more than the page that WORTH is about.)
local MAX_LIST, MAX_LISTS, MAX_CURSOR, MAX_ACCEPTED, MAX_TAKERS = 1048576, 16777216, 512, 64, 16
local takers, taking = {}, 0 -- Accept-Encodings that take gzip
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
  local known, told, accepted = known_of(headers), handle:streamInfo():dynamicMetadata(), headers:get('accept-encoding') or ''
  local before = '{"jsonrpc":"2.0","id":' .. sub(text, id, id_end) .. ',"result":'
  local lists = known and known.view.lists or {}
  local packed = takers[accepted] and #before <= MAX_AROUND and lists['gzip ' .. what]
  local found = lists[what]
  if found and #found > WORTH and find(accepted:lower(), 'gzip', 1, true) then found = nil end
  if (packed or found) and holds(known) then
    told:set('mcpgw', 'answered', '1')
    headers:replace('x-mcp-servername', 'mcpEnvoy') -- for log and counters: who answered
    handle:respond({
      [':status'] = '200', ['content-type'] = 'application/json', ['content-encoding'] = packed and 'gzip' or nil,
      vary = (packed or #found > WORTH) and 'accept-encoding' or nil,
    }, packed and put_together(before, packed) or before .. found)
  end
  told:set('mcpgw', 'asked', {
    host = headers:get(':authority'), path = headers:get(':path'), origin = headers:get('origin'),
    virtual = headers:get('x-mcp-virtualserver'), version = headers:get('mcp-protocol-version') or '',
    token = headers:get('mcp-session-id'), what = what, accepted = #accepted <= MAX_ACCEPTED and accepted or nil,
  })
end

-- The broker has answered; `stamped` is what it says of how long that holds.
function remember_list(handle, asked, stamped)
  local headers = handle:headers()
  local slot, stamp_then, expires, sums = stamped:match('^(%d+) (%x+) (%d+) ?(%x*)$')
  local token = headers:get('mcp-session-id') or asked.token
  local known = slot and token and learn(token, asked, tonumber(slot), stamp_then, tonumber(expires))
  local what, size = asked.what, #asked.what + (tonumber(headers:get('content-length')) or MAX_LIST)
  local encoding = headers:get('content-encoding')
  if not known or what == 'initialize' or encoding and not asked.accepted then return end
  if encoding then
    if not takers[asked.accepted] then
      if taking == MAX_TAKERS then takers, taking = {}, 0 end
      takers[asked.accepted], taking = true, taking + 1
    end
    what = 'gzip ' .. what
  end
  if known.view.lists[what] or size >= MAX_LIST then return end
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ''
  local _, last = find(text, '^{"jsonrpc":"2.0","id":.-,"result":')
  local kept_list = encoding and take_apart(text, sums) or not encoding and last and sub(text, last + 1)
  if not kept_list or not holds(known) then return end
  if kept + size > MAX_LISTS then
    for _, view in pairs(views) do view.lists = {} end
    kept = 0
  end
  kept = kept + size
  known.view.lists[what] = kept_list
end
