-- The route memo: the router decides a call, this filter repeats the decision (ARCHITECTURE.md, "What Envoy remembers").
-- It makes none of its own. What does not scan plainly, and what it has not been told, goes to the router, which says beside its answer
-- what that depended on (mcpgw_sidecar/extproc/codec.py, `_memo`). Each worker remembers, bounded: whose tool a name is, for everybody
-- who sees the same; and of a client's session what it sees, and its sessions with servers.
-- How long: STAMPS is a file of the sidecar's (mcpgw_sidecar/envoyfiles/stamps.py). A decision came with 16 of its bytes; as long as they
-- stand there unchanged, the router would decide the same. Its length changes with each change of its bytes: who has looked at them
-- once need not look again until it is another. Where there is no such file (""), a decision lives for LIFETIME.
local MAX_BODY, MAX_MEMBERS, LIFETIME = 65536, 100, 1000 -- bytes, of an object, milliseconds
local MAX_SESSIONS, MAX_TOOLS, MAX_VIEWS, MAX_TOKEN, MAX_PLACE = 10000, 50000, 1000, 8192, 512 -- the last two in bytes
local BROKER = {
  initialize = true, ping = true, ['tools/list'] = true, ['prompts/list'] = true, ['resources/list'] = true,
  ['resources/templates/list'] = true, ['logging/setLevel'] = true, ['notifications/initialized'] = true,
  ['notifications/cancelled'] = true, ['notifications/progress'] = true, ['notifications/roots/list_changed'] = true,
}

-- What was found in the message at hand: places of its members. Upvalues, not a table and closures: they cost nothing.
local version, method, id, id_end, params, params_end, name, name_end, count, inner

local function in_params(s, key, first)
  inner = inner + 1
  if inner > MAX_MEMBERS or not plain and find(key, '\\', 1, true) then return nil end
  local last = value_end(s, first)
  if key == 'name' and last then
    if name or byte(s, first) ~= 34 or not plain and find(sub(s, first, last), '\\', 1, true) then return nil end
    name, name_end = first + 1, last - 1
  end
  return last
end

local function in_message(s, key, first)
  count = count + 1
  if count > MAX_MEMBERS or key == 'result' or key == 'error' or not plain and find(key, '\\', 1, true) then return nil end
  if key == 'params' then
    if params then return nil end
    params, params_end = first, members(s, first, in_params)
    return params_end
  end
  local last = value_end(s, first)
  if not last then return nil end
  if key == 'jsonrpc' then
    if version or sub(s, first, last) ~= '"2.0"' then return nil end
    version = true
  elseif key == 'method' then
    if method or byte(s, first) ~= 34 then return nil end
    method = sub(s, first + 1, last - 1)
  elseif key == 'id' then
    local c = byte(s, first)
    if id or c ~= 34 and c ~= 45 and (c < 48 or c > 57) then return nil end
    id, id_end = first, last
  end
  return last
end

-- What stands plainly in a message: its method, the place of its id (nil: a notification) and, for tools/call, of the name between its
-- quotes. Nothing where Python's parser (protocol/jsonrpc.py) might say anything else.
function scan(s)
  version, method, id, id_end, params, params_end, name, name_end, count, inner = nil, nil, nil, nil, nil, nil, nil, nil, 0, 0
  local at = is_object(s, in_message)
  if not at or not version or not is_utf8(s, at) then return nil end
  if BROKER[method] then
    name, name_end = nil, nil
    return method, id, id_end
  end
  if method == 'tools/call' and id and name then return method, id, id_end, name, name_end end
end

-- By a client's session id: the headers that it asks with, the view that these give it, its sessions with servers by their names, and as
-- long as what all that holds. Two generations, of which the older is dropped; whoever is met in it moves on.
local young, old, seen = {}, {}, 0
local views, tools, places = {}, 0, 0 -- by those headers: tools by name, lists by what was asked for; how many tools and views
local kept = 0 -- bytes of lists
local versions = {} -- protocol versions that the router takes
local living = setmetatable({}, {__mode = 'v'}) -- sessions with servers by their owner's name (protocol/owners.py)
local generation, file, opened

local function forget_all() young, old, seen, views, tools, places, kept, versions = {}, {}, 0, {}, 0, 0, 0, {} end

local function keep(token, known)
  if seen >= MAX_SESSIONS then old, young, seen = young, {}, 0 end
  if not young[token] then seen = seen + 1 end
  young[token] = known
end

local function recall(token)
  local known = young[token]
  if not known and old[token] then
    known = old[token]
    keep(token, known)
  end
  return known
end

-- What is known of a request's session, if it asks as it did then; and the protocol version that it asks for ('': for none).
local function known_of(headers)
  local known = recall(headers:get('mcp-session-id') or '')
  if known and known.host == headers:get(':authority') and known.path == headers:get(':path')
    and known.origin == headers:get('origin') and known.virtual == headers:get('x-mcp-virtualserver') then
    local asked = headers:get('mcp-protocol-version') or ''
    if versions[asked] then return known, asked end
  end
end

-- With LuaJIT's ffi a look at the file is one system call of compiled code, with io it were two of interpreted; an Envoy without ffi remembers
-- nothing. (Mapped into memory it were none, but then whoever truncates the file kills Envoy.)
local there, ffi, C = pcall(function()
  local ffi = require('ffi')
  ffi.cdef('int open(const char *, int, ...); int close(int); long lseek(int, long, int); long pread(int, void *, unsigned long, long);')
  return ffi, ffi.C, ffi.C.open, ffi.C.close, ffi.C.lseek, ffi.C.pread -- named here, so that one which is missing is seen here
end)
local bytes = there and ffi.new('char[16]')
local SEEK_END = 2

-- A number that stays the same as long as nothing in the file changes, for a second at most. The file is opened anew each second, so that
-- one which was put in its place does not stay unseen.
local function file_state(now)
  if not there then return -1 end
  if now ~= opened then
    if file then C.close(ffi.gc(file, nil)[0]) end
    file, opened = ffi.gc(ffi.new('int[1]', C.open(STAMPS, 0)), function(old) C.close(old[0]) end), now
  end
  return now * LENGTHS + tonumber(C.lseek(file[0], 0, SEEK_END))
end

-- The 16 bytes of a slot as they are now: of all decisions, and of the sessions in this slot.
local function stamp(slot) return there and C.pread(file[0], bytes, 16, slot * 16) == 16 and ffi.string(bytes, 16) end

-- Whether what was decided for this session still holds.
local function holds(known)
  local now = os.time()
  if now >= known.expires then return false end
  local state = file_state(now)
  if known.state == state then return true end
  local stands = stamp(known.slot) -- looked at after the length: what changes in between is seen the next time
  if stands and sub(stands, 1, 8) == generation then
    if stands ~= known.stamp then return false end
    known.state = state
    return true
  end
  forget_all()
  generation = stands and sub(stands, 1, 8)
  return false
end

-- Whether the router would send this call there once more.
local function serves(handle, known, tool, upstream)
  if upstream.dead then return false end
  if STAMPS ~= '' then return holds(known) end
  local at = handle:timestamp() - LIFETIME
  return at < tool.at and at < upstream.at and os.time() < known.expires
end

-- A session, as it stood when the sidecar answered; nil if that has changed since. `asked` are the headers that it asked with.
-- Of a header that stands there twice Envoy gives both, with a comma: none of that is kept, nor what only fills memory.
local function learn(token, asked, slot, stamped, expires)
  local place = (asked.host or '') .. '\n' .. (asked.path or '') .. '\n' .. (asked.origin or '') .. '\n' .. (asked.virtual or '')
  if #token > MAX_TOKEN or #place > MAX_PLACE or find(token .. place .. (asked.version or ''), '[,?]') then return nil end
  local state
  if STAMPS ~= '' then
    state = file_state(os.time())
    if stamp(slot) ~= stamped then return nil end
    if sub(stamped, 1, 8) ~= generation then forget_all() end
    generation = sub(stamped, 1, 8)
  end
  if tools >= MAX_TOOLS or places >= MAX_VIEWS then forget_all() end
  local before = recall(token)
  if not views[place] then views[place], places = {tools = {}, lists = {}}, places + 1 end
  if asked.version then versions[asked.version] = true end
  local known = {
    host = asked.host, path = asked.path, origin = asked.origin, virtual = asked.virtual, view = views[place],
    servers = before and before.stamp == stamped and before.servers or {}, slot = slot, stamp = stamped, expires = expires, state = state,
  }
  keep(token, known)
  return known
end

-- Each word with Envoy costs as much as a dozen lines of Lua: nothing is said that stands there already. (That headers have changed makes
-- it choose the route anew: clear_route_cache of the filter, which is on.)
local function forward(handle, headers, buffer, text, known, asked, tool, upstream)
  headers:replace(':authority', tool.authority)
  if tool.path ~= known.path then headers:replace(':path', tool.path) end
  headers:replace('x-mcp-servername', tool.server)
  headers:replace('x-mcp-method', 'tools/call')
  headers:replace('x-mcp-toolname', tool.name)
  if upstream.version ~= asked then headers:replace('mcp-protocol-version', upstream.version) end
  if upstream.id then headers:replace('mcp-session-id', upstream.id) else headers:remove('mcp-session-id') end
  headers:remove('accept-encoding')
  if known.origin then headers:remove('origin') end
  if known.virtual then headers:remove('x-mcp-virtualserver') end
  if tool.renamed then buffer:setBytes(sub(text, 1, name - 2) .. tool.renamed .. sub(text, name_end + 2)) end -- and content-length
  local told = handle:streamInfo():dynamicMetadata()
  told:set('mcpgw', 'id', sub(text, id, id_end))
  told:set('mcpgw', 'session', upstream.session)
end

function envoy_on_request(handle)
  local buffer = handle:body()
  local size = buffer and buffer:length() or 0
  if size == 0 or size > MAX_BODY then return end
  local text, headers = buffer:getBytes(0, size), handle:headers()
  if headers:get(':method') ~= 'POST' then return end
  if not scan(text) then
    handle:streamInfo():dynamicMetadata():set('mcpgw', 'lookup', 'declined')
  elseif name then
    local known, asked = known_of(headers)
    local tool = known and known.view.tools[sub(text, name, name_end)]
    local upstream = tool and known.servers[tool.server]
    if upstream and serves(handle, known, tool, upstream) then
      forward(handle, headers, buffer, text, known, asked, tool, upstream)
    else
      handle:streamInfo():dynamicMetadata():set('mcpgw', 'lookup', 'miss')
    end
  elseif STAMPS ~= '' then -- else it is not known here whether the sidecar wants to see everything (LOG_LEVEL=debug)
    headers:replace('x-mcp-servername', 'mcpBroker')
    headers:replace('x-mcp-method', method)
    handle:streamInfo():dynamicMetadata():set('mcpgw', 'id', id and sub(text, id, id_end) or 'null')
    if id and LISTED[method] then list(handle, headers, text) end -- lists.lua
  end
end

-- An answer has come: a decision of the router's is kept; a session that its server does not know (any more) is not relied on.
function remember(handle, call, status)
  local memo = call['memo']
  local dead = living[call['healed'] or (status == '404' or status == '401') and call['session']]
  if dead then dead.dead = true end
  if not memo or call['healed'] or sub(status, 1, 1) ~= '2' then return end
  local known = learn(memo.token, memo, memo.slot, memo.stamp, memo.expires)
  if not known then return end -- decided before the change
  local at, found = handle:timestamp(), known.view.tools
  if not found[memo.name] then tools = tools + 1 end
  found[memo.name] = {name = memo.name, server = memo.server, authority = memo.authority, path = memo.to, renamed = memo.renamed, at = at}
  local upstream = {id = memo.id, version = memo.speaks, session = call['session'], at = at}
  living[call['session']], known.servers[memo.server] = upstream, upstream
end
