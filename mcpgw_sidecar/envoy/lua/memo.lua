-- The route memo: the router decides a call, and this filter repeats the decision (ARCHITECTURE.md,
-- "What Envoy remembers"). It decides nothing itself. A message that does not scan plainly, and a call
-- that it has no entry for, go to the router, which leaves an entry beside its answer: what the
-- decision depended on, and what it is (mcpgw_sidecar/envoy/entries.py). Each worker keeps
-- entries within bounds: for everybody who sees the same tools, which server owns a name; for a client's
-- session, what it sees, and its sessions with servers. A client of the stateless era has no session: the
-- values of its headers stand for one, and all who show the same share it.
-- How long an entry holds: STAMPS is a file of the sidecar's (mcpgw_sidecar/envoyfiles/stamps.py). An
-- entry comes with two of its texts, the stamp of the session and the mark of a part of the catalog (the
-- server, or all lists); as long as both stand there unchanged, the router would decide the same. The
-- file's length changes with each change of its bytes: once this filter has looked at the
-- bytes, it looks again only when the length has changed. Without such a file ("") an entry lives for LIFETIME.
local MAX_BODY, LIFETIME = 65536, 1000 -- bytes, milliseconds
local MAX_SESSIONS, MAX_TOOLS, MAX_VIEWS, MAX_PLACE = 10000, 50000, 1000, 512 -- the last in bytes
local MAX_PERSONAL, MAX_LENGTHS = 4096, 10000 -- bytes of a value of PERSONAL
local HALF = STAMP / 2 -- of a stamp: what all entries depend on

local IS_LIST, IS_DEPENDED, IS_FORGOTTEN = set_of(LISTS), set_of(DEPENDS), set_of(FORGOTTEN)
IS_LIST[INITIALIZE] = true -- its answer teaches a session, as that of a list does
IS_LIST[DISCOVER] = true -- is kept as a list is

-- Entries of clients' sessions by their ids, in two generations: when the young one is full, the old one
-- is dropped. An entry found in the older generation moves to the newer one. An entry holds the values
-- of the headers in DEPENDS, the view that these give the client, its sessions with servers by their
-- names, and how long all of it holds.
-- Those without a session, which cost a client nothing, have two of their own.
local function new_store() return {young = {}, old = {}, count = 0} end
local of_sessions, of_others = new_store(), new_store()
local views, tools_count, views_count = {}, 0, 0 -- by the values of DEPENDS: tools by name, lists by request
local lists_size = 0 -- bytes of all lists
local by_owner = setmetatable({}, {__mode = 'v'}) -- sessions with servers by their owner's name (protocol/owners.py)
local parts = {} -- marks of parts as they were read last, each with the file's state then
local generation, file, opened

local function forget_all()
  of_sessions, of_others, views, tools_count, views_count, lists_size = new_store(), new_store(), {}, 0, 0, 0
end

local function keep(store, token, session)
  if store.count >= MAX_SESSIONS then store.old, store.young, store.count = store.young, {}, 0 end
  if not store.young[token] then store.count = store.count + 1 end
  store.young[token] = session
end

local function recall(store, token)
  local session = store.young[token]
  if not session and store.old[token] then
    session = store.old[token]
    keep(store, token, session)
  end
  return session
end

-- The values of DEPENDS and PERSONAL in a request, by name: what `learn` takes. In the stateless era a
-- credential that nobody has verified decides nothing: only that there is one.
local function depends_of(headers, version)
  local values = {}
  for i = 1, #DEPENDS do values[DEPENDS[i]] = headers:get(DEPENDS[i]) end
  for i = 1, #PERSONAL do values[PERSONAL[i]] = headers:get(PERSONAL[i]) end
  if values[AUTHORIZATION] and IS_STATELESS[version] and not headers:get(X_CLAIMS) then values[AUTHORIZATION] = '' end
  return values
end

-- What stands for a session in the stateless era: all that a decision depends on. It has line feeds, which
-- no session id has.
local parts_of_key = {}
local function key_of(values, has_pages)
  local n = #DEPENDS
  for i = 1, n do parts_of_key[i] = values[DEPENDS[i]] or '\1' end
  for i = 1, #PERSONAL do parts_of_key[n + i] = values[PERSONAL[i]] or '\1' end
  parts_of_key[n + #PERSONAL + 1] = has_pages and 'apps' or 'all'
  return table.concat(parts_of_key, '\n')
end

-- The entry of a request's session, if every header in DEPENDS and PERSONAL is as it was then.
local function session_of(headers, version)
  if IS_STATELESS[version] then
    local credential, token = headers:get(AUTHORIZATION), headers:get(SESSION)
    if credential and find(credential, ',', 1, true) or token and find(token, ',', 1, true) then return nil end -- twice
    return recall(of_others, key_of(depends_of(headers, version), shows_pages))
  end
  if not IS_STATEFUL[version] then return nil end
  local session = recall(of_sessions, headers:get(SESSION) or '')
  if not session then return nil end
  local values = session.values
  for i = 1, #DEPENDS do
    if headers:get(DEPENDS[i]) ~= values[i] then return nil end
  end
  local personal = session.personal
  for i = 1, #PERSONAL do
    if headers:get(PERSONAL[i]) ~= personal[i] then return nil end
  end
  return session
end

-- With LuaJIT's ffi a look at the file is one system call of compiled code; with io it were two of
-- interpreted code. An Envoy without ffi keeps no entry. (A mapping of the file were no call at all, but
-- then whoever truncates the file kills Envoy.)
local there, ffi, C = pcall(function()
  local ffi = require('ffi')
  ffi.cdef('int open(const char *, int, ...); int close(int); long lseek(int, long, int); long pread(int, void *, unsigned long, long);')
  return ffi, ffi.C, ffi.C.open, ffi.C.close, ffi.C.lseek, ffi.C.pread -- named here, so that one which is missing is seen here
end)
local bytes = there and ffi.new('char[?]', STAMP)
local SEEK_END = 2

-- A number that stays the same as long as nothing in the file changes, for a second at most. The file is
-- opened anew each second, so that a file which was put in its place is seen.
local function file_state(now)
  if not there then return -1 end
  if now ~= opened then
    if file then C.close(ffi.gc(file, nil)[0]) end
    file, opened = ffi.gc(ffi.new('int[1]', C.open(STAMPS, 0)), function(old) C.close(old[0]) end), now
  end
  return now * LENGTHS + tonumber(C.lseek(file[0], 0, SEEK_END))
end

-- The stamp of a slot as it is now.
local function stamp(slot)
  return there and C.pread(file[0], bytes, STAMP, slot * STAMP) == STAMP and ffi.string(bytes, STAMP)
end

-- Whether a part of the catalog has this mark, in the state of the file that was just seen.
local function is_marked(part, mark, state)
  local known = parts[part]
  if not known then
    known = {}
    parts[part] = known
  end
  if known.state ~= state then
    known.mark = there and C.pread(file[0], bytes, HALF, MARKS + part * HALF) == HALF and ffi.string(bytes, HALF)
    known.state = state
  end
  return known.mark == mark
end

-- Whether the entry of a session still holds.
local function holds(session)
  local now = os.time()
  if now >= session.expires then return false end
  local state = file_state(now)
  if session.state == state then return true end
  local current = stamp(session.slot) -- read after the length: a change in between is seen the next time
  if current and sub(current, 1, HALF) == generation then
    if current ~= session.stamp then return false end
    session.state = state
    return true
  end
  forget_all()
  generation = current and sub(current, 1, HALF)
  return false
end

-- Whether the router would send this call there once more.
local function serves(handle, session, tool, upstream)
  if upstream.dead then return false end
  if tool.given_as then -- a token in place of the caller's own
    local given = session.given[tool.server]
    -- Not one of before the server moved, or its configuration changed: what a tool needs is for all sessions.
    if not given or given.as ~= tool.given_as or os.time() >= given['until'] then return false end
    if STAMPS == '' and given.at <= handle:timestamp() - LIFETIME then return false end
  end
  if STAMPS ~= '' then return holds(session) and is_marked(tool.part, tool.mark, session.state) end
  local oldest = handle:timestamp() - LIFETIME
  return oldest < tool.at and oldest < upstream.at and os.time() < session.expires
end

-- Request headers that a session's calls lose on the way to a server: those of REMOVED that it may have, and
-- in listeners of ours those of DEPENDS and PERSONAL that servers do not get.
local function removed(values)
  local names, is_there = {}, {}
  for i, known in ipairs(STAMPS ~= '' and {REMOVED, DEPENDS, PERSONAL} or {REMOVED}) do
    for _, name in ipairs(known) do
      local may_be = values[name] or i == 1 and not IS_DEPENDED[name]
      if may_be and not is_passed[name] and not is_there[name] then names[#names + 1], is_there[name] = name, true end
    end
  end
  return names
end

-- Whether a request has no other headers than these, which the session and this function know: all of them
-- are as long as Envoy says that the client's are. (What Envoy adds itself is not among the client's.)
local OTHERS, POST = {'user-agent', 'accept-encoding'}, #':method' + #'POST'
local lengths, lengths_count = {}, 0 -- of a client's headers, without those that Envoy adds or removes, by Envoy's words

local function length_of(text)
  local length = lengths[text]
  if not length then
    local bytes, scheme, size, connection = text:match('^(%d+) (%S*) (%S*) ?(.*)$')
    length = tonumber(bytes or '') or 0
    for name, value in pairs(connection and {[':scheme'] = scheme, ['content-length'] = size, connection = connection} or {}) do
      if value ~= '' then length = length - #name - #value end
    end
    if lengths_count >= MAX_LENGTHS then lengths, lengths_count = {}, 0 end
    lengths[text], lengths_count = length, lengths_count + 1
  end
  return length
end

local function is_known(headers, session, version)
  local length = session.known + POST
  if version ~= '' then length = length + #ACCEPTED + #version end
  if IS_STATELESS[version] then
    length = length + #MCP_METHOD + #CALL + #MCP_NAME + name_end - name + 1
    if session.has_credential then length = length + #headers:get(AUTHORIZATION) end
  end
  for i = 1, #OTHERS do
    local value = headers:get(OTHERS[i])
    if value then length = length + #OTHERS[i] + #value end
  end
  return length_of(headers:get(X_SIZE) or '') == length
end

local function is_same(one, other)
  for i = 1, #PERSONAL do
    if one[i] ~= other[i] then return false end
  end
  return true
end

-- Who calls, and where, for the access log: made once for a session. `text` is of entries.py, `who_text`.
local function who_of(text, headers)
  local who = {host = headers[':authority'], virtual_server = headers[X_VIRTUAL] or (headers[':path'] or ''):match('^' .. ENDPOINT .. '/(.+)$')}
  local session, client, version = text:match('^([^/]*)/([^/]*)/([^/]*)$')
  for name, word in pairs({session = session, client_name = client, client_version = version}) do
    if word ~= '' then who[name] = word:gsub('%%(%x%x)', function(hex) return string.char(tonumber(hex, 16)) end) end
  end
  return who
end

-- Makes the entry of a session as it stood when the sidecar answered; nil if that has changed since, or if
-- the request is none whose answer is kept: a header that stands there twice (Envoy joins the values with
-- a comma), a query, and what only fills memory. `question` has the token, the values of DEPENDS, PERSONAL and ACCEPTED.
local function learn(token, question, slot, stamp_then, expires, shown, who)
  local is_stateless, before = IS_STATELESS[question.version], nil
  if is_stateless then token = '' end -- whatever it sends: there is none in this era
  local values, place, personal, known = {}, shown .. '\n', {}, is_stateless and 0 or #SESSION + #token
  for i = 1, #DEPENDS do
    local value = question.headers[DEPENDS[i]]
    values[i], place = value, place .. (value or '') .. '\n'
    known = known + (value and #DEPENDS[i] + #value or 0)
  end
  for i = 1, #PERSONAL do
    personal[i] = question.headers[PERSONAL[i]]
    if personal[i] and #personal[i] > MAX_PERSONAL then return nil end
    known = known + (personal[i] and #PERSONAL[i] + #personal[i] or 0)
  end
  if #token > MAX_TOKEN or #place > MAX_PLACE or find(token .. place .. (question.version or ''), '[,?]') then return nil end
  if is_stateless then
    token = key_of(question.headers, sub(shown, 1, 4) == 'apps')
    local accept = question.headers.accept or ''
    local takes_both = find(accept, JSON, 1, true) and find(accept, EVENT_STREAM, 1, true)
    place = (takes_both and 'both\n' or 'other\n') .. place -- servers are told what is taken
  end
  local state
  if STAMPS ~= '' then
    state = file_state(os.time())
    if stamp(slot) ~= stamp_then then return nil end
    if sub(stamp_then, 1, HALF) ~= generation then forget_all() end
    generation = sub(stamp_then, 1, HALF)
  end
  if tools_count >= MAX_TOOLS or views_count >= MAX_VIEWS then forget_all() end
  if not views[place] then views[place], views_count = {tools = {}, lists = {}, size = 0, servers = {}}, views_count + 1 end
  before = recall(is_stateless and of_others or of_sessions, token)
  if before and not (before.stamp == stamp_then and is_same(before.personal, personal)) then before = nil end
  local session = {
    values = values, personal = personal, path = question.headers[':path'], removed = removed(question.headers), view = views[place],
    servers = is_stateless and views[place].servers or before and before.servers or {}, given = before and before.given or {},
    has_credential = question.headers[AUTHORIZATION] == '', slot = slot, stamp = stamp_then, expires = expires, state = state, known = known,
    who = who_of(who, question.headers), about = {},
  }
  keep(is_stateless and of_others or of_sessions, token, session)
  return session
end

-- Each call of Envoy costs as much as a dozen lines of Lua: no header is set that has its value already.
-- (Changed headers make Envoy choose the route anew: clear_route_cache of the filter, which is on.)
local function forward(handle, buffer, text, session, version, tool, upstream)
  local headers = handle:headers()
  headers:replace(':authority', tool.authority)
  if tool.path ~= session.path then headers:replace(':path', tool.path) end
  headers:replace(X_SERVER, tool.server)
  headers:replace(X_METHOD, CALL)
  headers:replace(X_TOOL, tool.name)
  if upstream.version ~= version then headers:replace(ACCEPTED, upstream.version) end
  if upstream.accept then headers:replace('accept', upstream.accept) end
  if upstream.kind then headers:replace('content-type', upstream.kind) end
  if upstream.id then headers:replace(SESSION, upstream.id) else headers:remove(SESSION) end
  if IS_STATELESS[version] then headers:remove(LAST_EVENT) end
  if STAMPS ~= '' then pass(headers, tool.wanted, is_known(headers, session, version) and session.removed) -- passed.lua
  else -- other filters of Istio may read what only last.lua takes away
    headers:replace(X_PASSED, tool.passed)
    local names = session.removed
    for i = 1, #names do headers:remove(names[i]) end
  end
  if tool.given_as then headers:replace(tool.given_as, session.given[tool.server].value) end
  if tool.named then headers:replace(MCP_NAME, tool.named) end
  if tool.renamed then buffer:setBytes(sub(text, 1, name - 2) .. tool.renamed .. sub(text, name_end + 2)) end -- and content-length
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, ID, sub(text, id, id_end))
  local about = session.about[tool.server] -- call.lua
  if not about or about.owner ~= upstream.owner then
    about = {owner = upstream.owner}
    for word, value in pairs(session.who) do about[word] = value end
    session.about[tool.server] = about
  end
  metadata:set(METADATA, WHO, about)
end

-- The broker carries such a call, and decides it once more.
local function carry(handle, text, session, tool)
  local headers = handle:headers()
  headers:replace(X_SERVER, tool.server)
  headers:replace(X_CARRIED, '1')
  headers:replace(X_METHOD, CALL)
  headers:replace(X_TOOL, tool.name)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, ID, sub(text, id, id_end))
  metadata:set(METADATA, WHO, session.who)
end

-- The last message of opening a session says nothing that the broker would do: its answer is 202.
local function accept(handle, headers, version)
  local session = not IS_STATELESS[version] and session_of(headers, version)
  if not session or not holds(session) then return end
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, ANSWERED, '1')
  metadata:set(METADATA, WHO, session.who)
  headers:replace(X_SERVER, ENVOY)
  handle:respond({[':status'] = '202'})
end

-- Whether a request brings what the server wants of its client. In a session the router has to learn each new
-- value, for requests of its own.
local function brings(headers, wanted, upstream, version)
  if not wanted then return true end
  local brought = brought_by(headers, wanted)
  if IS_STATELESS[version] then return brought ~= nil end
  return brought == upstream.brought
end

function envoy_on_request(handle)
  local buffer = handle:body()
  local size = buffer and buffer:length() or 0
  if size == 0 or size > MAX_BODY then return end
  local text, headers = buffer:getBytes(0, size), handle:headers()
  if headers:get(':method') ~= 'POST' then return end
  local version = headers:get(ACCEPTED) or ''
  if not scan(text) or not is_of_era(text, headers, version) then
    handle:streamInfo():dynamicMetadata():set(METADATA, LOOKUP, DECLINED)
  elseif name then
    local session = session_of(headers, version)
    local tool = session and session.view.tools[sub(text, name, name_end)]
    local upstream = tool and session.servers[tool.server]
    if upstream and serves(handle, session, tool, upstream) and brings(headers, tool.wanted, upstream, version) then
      if tool.carried then carry(handle, text, session, tool)
      else forward(handle, buffer, text, session, version, tool, upstream) end
    else
      handle:streamInfo():dynamicMetadata():set(METADATA, LOOKUP, MISS)
    end
  elseif STAMPS ~= '' then -- else it is not known here whether the sidecar wants to see everything (LOG_LEVEL=debug)
    headers:replace(X_SERVER, BROKER)
    headers:replace(X_METHOD, method)
    handle:streamInfo():dynamicMetadata():set(METADATA, ID, id and sub(text, id, id_end) or 'null')
    if id and IS_LIST[method] then list(handle, headers, text, version) -- lists.lua
    elseif not id and method == INITIALIZED then accept(handle, headers, version) end
  end
end

-- Keeps the entry that came with an answer, and forgets a session that its server does not know (any more).
function remember(handle, call, status)
  local entry = call[MEMO]
  local dead = by_owner[call[HEALED] or call[REFUSED] and IS_FORGOTTEN[call[REFUSED].status] and call[OWNER]]
  if dead then dead.dead = true end
  if not entry or call[HEALED] or call[FAILED] or sub(status, 1, 1) ~= '2' then return end
  local session = learn(entry.token, entry, entry.slot, entry.stamp, entry.expires, entry.shown, entry.who)
  if not session or STAMPS ~= '' and not is_marked(entry.part, entry.mark, session.state) then return end -- decided before the change
  local at, tools = handle:timestamp(), session.view.tools
  if not tools[entry.name] then tools_count = tools_count + 1 end
  tools[entry.name] = {
    name = entry.name, server = entry.server, authority = entry.authority, path = entry.path, renamed = entry.renamed, at = at,
    part = entry.part, mark = entry.mark, passed = entry.passed, wanted = wanted_of(entry.passed), named = entry.named, carried = entry.carried, given_as = entry.given_as,
  }
  -- Whose token it is, the session says: what else is known of a server is for all who show the same.
  session.given[entry.server] = entry.given and {value = entry.given, ['until'] = entry.given_until, as = entry.given_as, at = at}
  local upstream = {
    id = entry.session_id, version = entry.speaks, accept = entry.accept, kind = entry.kind, owner = call[OWNER], at = at,
    brought = entry.brought,
  }
  session.servers[entry.server] = upstream
  if call[OWNER] and not IS_STATELESS[entry.version] then by_owner[call[OWNER]] = upstream end
end
