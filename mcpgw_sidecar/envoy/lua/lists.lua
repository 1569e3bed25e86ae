-- Envoy answers a list that the broker has answered once, for everybody who sees the same, as long as the
-- stamps allow. The broker's answer brings them in X_MEMO (mcpgw_sidecar/envoy/entries.py, `list_mark`).
-- The answer to initialize brings them too: the first list of a new session is a hit already. A large
-- list that the broker gave in gzip is given so to every client whose Accept-Encoding got gzip before;
-- its answer brings two checksums for gzip.lua.
-- Stands behind memo.lua and gzip.lua in one filter.
-- Bytes of a list, of all lists, of a cursor and of an Accept-Encoding (those of browsers and clients have
-- 12 to 30), and how many of the last. (A list is kept with the answer's last brace: one byte more
-- than the page that WORTH is about.)
local MAX_LIST, MAX_LISTS, MAX_CURSOR, MAX_ENCODING, MAX_ENCODINGS = 1048576, 16777216, 512, 64, 16
local gzip_encodings, gzip_count = {}, 0 -- values of Accept-Encoding that take gzip

-- A request for the broker whose answer may be kept here.
function list(handle, headers, text, version)
  local what = method
  if find(headers:get('user-agent') or '', LISTING, 1, true) then return end -- a gateway: perhaps this one
  if method ~= INITIALIZE then
    if has_more then return end
    if cursor then what = method .. sub(text, cursor, cursor_end) end
    if #what > MAX_CURSOR or cursor and not find(what, '"[%w_=-]+"$') then return end
  end
  local session, metadata = session_of(headers, version), handle:streamInfo():dynamicMetadata()
  local encoding = headers:get('accept-encoding') or ''
  local before = '{"jsonrpc":"2.0","id":' .. sub(text, id, id_end) .. ',"result":'
  local lists = session and session.view.lists or {}
  local packed = gzip_encodings[encoding] and #before <= MAX_AROUND and lists['gzip ' .. what]
  local plain_list = lists[what]
  if plain_list and #plain_list > WORTH and find(encoding:lower(), 'gzip', 1, true) then plain_list = nil end
  if (packed or plain_list) and holds(session) and is_marked(PARTS, session.view.mark, session.state) then
    metadata:set(METADATA, ANSWERED, '1')
    metadata:set(METADATA, WHO, session.who)
    headers:replace(X_SERVER, ENVOY) -- for log and counters: who answered
    handle:respond({
      [':status'] = '200', ['content-type'] = JSON, ['content-encoding'] = packed and 'gzip' or nil,
      vary = (packed or #plain_list > WORTH) and 'accept-encoding' or nil,
    }, packed and put_together(before, packed) or before .. plain_list)
  end
  metadata:set(METADATA, ASKED, {
    headers = depends_of(headers, version), version = version, token = headers:get(SESSION), what = what,
    encoding = #encoding <= MAX_ENCODING and encoding or nil,
  })
end

-- The broker has answered; `mark` says how long the answer holds.
function remember_list(handle, question, mark)
  local headers = handle:headers()
  local slot, stamp_then, lists, expires, shown, who, sums = mark:match('^(%d+) (%x+) (%x+) (%d+) (%l+) (%S+) ?(%x*)$')
  local token = headers:get(SESSION) or question.token or ''
  local session = slot and learn(token, question, tonumber(slot), stamp_then, tonumber(expires), shown, who)
  if session then handle:streamInfo():dynamicMetadata():set(METADATA, WHO, session.who) end
  local what, size = question.what, #question.what + (tonumber(headers:get('content-length')) or MAX_LIST)
  local encoding = headers:get('content-encoding')
  if not session or what == INITIALIZE or encoding and not question.encoding then return end
  if encoding then
    if not gzip_encodings[question.encoding] then
      if gzip_count == MAX_ENCODINGS then gzip_encodings, gzip_count = {}, 0 end
      gzip_encodings[question.encoding], gzip_count = true, gzip_count + 1
    end
    what = 'gzip ' .. what
  end
  local view = session.view
  if not is_marked(PARTS, lists, session.state) then return end
  if view.mark ~= lists then
    lists_size = lists_size - view.size
    view.lists, view.size, view.mark = {}, 0, lists
  end
  if view.lists[what] or size >= MAX_LIST then return end
  local body = handle:body()
  local text = body and body:getBytes(0, body:length()) or ''
  local _, last = find(text, '^{"jsonrpc":"2.0","id":.-,"result":')
  local entry = encoding and take_apart(text, sums) or not encoding and last and sub(text, last + 1)
  if not entry or not holds(session) or view.mark ~= lists then return end
  if lists_size + size > MAX_LISTS then
    for _, other in pairs(views) do other.lists, other.size = {}, 0 end
    lists_size = 0
  end
  lists_size, view.size = lists_size + size, view.size + size
  view.lists[what] = entry
end
