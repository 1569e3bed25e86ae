-- Stands behind memo.lua in one filter. Lists that the broker answered once are answered by Envoy, for everybody who sees the same, as long as
-- the stamps say so; each answer brings them as `x-mcp-memo: SLOT STAMP EXPIRES` (mcpgw_sidecar/broker/app.py, `_memo`). So does initialize: a
-- new session's first list is known already. A large list in gzip is kept as it was answered, for whoever sends the same Accept-Encoding;
-- its answer brings SUMS too, by which it is put around another id (mcpgw_sidecar/protocol/gzipped.py says how).
-- Bytes: of a list, of all that are kept, of a cursor, of an Accept-Encoding, of what stands before a list in gzip. (What is kept as text has the
-- answer's last brace: one byte more than the page that WORTH is about.)
local MAX_LIST, MAX_LISTS, MAX_CURSOR, MAX_ACCEPTED, MAX_AROUND = 1048576, 16777216, 512, 64, 65535
LISTED = {
  initialize = true, ['tools/list'] = true, ['prompts/list'] = true, ['resources/list'] = true, ['resources/templates/list'] = true,
}

local band, bnot, bxor, rshift = bit.band, bit.bnot, bit.bxor, bit.rshift
local HEAD = '\31\139\8\0\0\0\0\0\0\255'
local LAST = '\1\1\0\254\255}' -- the stored block behind the others: the answer's last brace
local CRC = {}
for n = 0, 255 do
  local c = n
  for _ = 1, 8 do c = bxor(rshift(c, 1), band(c, 1) == 1 and 0xEDB88320 or 0) end
  CRC[n] = c
end

local function crc32(text, c)
  c = bnot(c)
  for i = 1, #text do c = bxor(rshift(c, 8), CRC[band(bxor(c, byte(text, i)), 255)]) end
  return bnot(c)
end

local function little(n, size)
  local out = ''
  for _ = 1, size do out, n = out .. string.char(band(n, 255)), rshift(n, 8) end
  return out
end

local function number(text, at, size)
  local n = 0
  for i = at + size - 1, at, -1 do n = n * 256 + byte(text, i) end
  return n
end

-- Of an answer in gzip what is the same in every one of them; nil if it is not made like that.
function take_apart(text, sums)
  if #sums ~= 33 * 8 or #text < 30 or sub(text, 1, 11) ~= HEAD .. '\0' or sub(text, -14, -9) ~= LAST then return nil end
  local before = number(text, 12, 2)
  local packed = {blocks = sub(text, 16 + before, -9), size = number(text, #text - 3, 4) - before}
  for k = 0, 32 do packed[k] = bit.tobit(tonumber(sub(sums, 8 * k + 1, 8 * k + 8), 16)) end
  return packed
end

function put_together(before, packed)
  local first, sum = crc32(before, 0), packed[0]
  for k = 1, 32 do
    if band(rshift(first, k - 1), 1) == 1 then sum = bxor(sum, packed[k]) end
  end
  local size = #before
  return HEAD .. '\0' .. little(size, 2) .. little(MAX_AROUND - size, 2) .. before .. packed.blocks
    .. little(crc32('}', sum), 4) .. little(size + packed.size, 4)
end

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
  local found = known and known.view.lists[what]
  local packed = known and #before <= MAX_AROUND and known.view.lists[what .. '\n' .. accepted]
  if found and #found > WORTH and find(accepted, 'gzip', 1, true) then found = nil end
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
  local size = #asked.what + (tonumber(headers:get('content-length')) or MAX_LIST)
  local what = asked.what
  local is_packed = headers:get('content-encoding')
  if is_packed then what = asked.accepted and what .. '\n' .. asked.accepted end
  if not known or asked.what == 'initialize' or not what or known.view.lists[what] or size >= MAX_LIST then return end
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ''
  local _, last = find(text, '^{"jsonrpc":"2.0","id":.-,"result":')
  local list = last and sub(text, last + 1)
  if is_packed then list = take_apart(text, sums) end
  if not list or not holds(known) then return end
  if kept + size > MAX_LISTS then
    for _, view in pairs(views) do view.lists = {} end
    kept = 0
  end
  kept = kept + size
  known.view.lists[what] = list
end
