-- The scanner of the route memo: it reads of a message what decides where it goes, as protocol/jsonrpc.py
-- and protocol/envelope.py read it, or declines it. memo.lua and lists.lua use what it has found.
-- Stands behind json.lua in one filter.
local function set_of(names)
  local set = {}
  for _, name in ipairs(names) do set[name] = true end
  return set
end

local IS_STATEFUL, IS_STATELESS = set_of(STATEFUL), set_of(STATELESS) -- versions

-- Places of the members of the message at hand. Upvalues, not a table and closures: they cost nothing.
-- `has_more` says that `params` have more than `_meta` and `cursor`; `shows_pages` that the client does.
local method, id, id_end, name, name_end, cursor, cursor_end, has_more, shows_pages

do -- what follows only this file uses: Lua has room for 200 local names at a time
local MAX_MEMBERS = 100 -- of an object
local IS_BROKERS, IS_LEVEL = set_of(BROKERS), set_of(LEVELS)
local is_two, has_params, count, inner
-- Of `_meta`: the version that it names, whether it says what the client can do, and a level of the log.
local has_meta, spoken, is_capable, is_extended, has_level

-- Keys that are what they seem to be. Any other may be one of them in another case, which some parsers take
-- for it: the router sees to it (protocol/jsontext.py, `only`).
local USUAL = set_of({
  'jsonrpc', 'id', 'method', 'params', 'name', 'arguments', '_meta', 'cursor', 'task', 'progressToken', 'requestId', 'level',
  'protocolVersion', 'capabilities', 'clientInfo', 'reason', 'progress', 'total', 'message', 'uri', 'ref', 'argument', 'context',
  META_VERSION, META_CAPABILITIES, META_LEVEL, META_CLIENT,
})
local FOLDED = {}
for key in pairs(USUAL) do FOLDED[key:lower()] = true end

local function is_disguised(key)
  return not USUAL[key] and (FOLDED[key:lower()] or find(key, '[\128-\255]')) and true
end

-- Whether a member is one too many, or its key may mean another one.
local function is_odd(key)
  inner = inner + 1
  return inner > MAX_MEMBERS or not plain and find(key, '\\', 1, true) or is_disguised(key)
end

local function in_extensions(s, key, first)
  if is_odd(key) then return nil end
  if key == UI then shows_pages = true end
  return value_end(s, first)
end

local function in_capabilities(s, key, first)
  if is_odd(key) then return nil end
  if key == 'extensions' then
    if is_extended then return nil end
    is_extended = true
    if byte(s, first) == 123 then return members(s, first, in_extensions) end
  end
  return value_end(s, first)
end

local function in_meta(s, key, first)
  if is_odd(key) then return nil end
  if key == META_CAPABILITIES then
    if is_capable then return nil end
    is_capable = true
    return members(s, first, in_capabilities)
  end
  local last = value_end(s, first)
  if key == META_VERSION then
    if spoken or not last then return nil end
    spoken = sub(s, first + 1, last - 1)
  elseif key == META_LEVEL then
    if has_level or not last or not IS_LEVEL[sub(s, first + 1, last - 1)] then return nil end
    has_level = true
  end
  return last
end

local function in_params(s, key, first)
  if is_odd(key) then return nil end
  if key == '_meta' then
    if has_meta then return nil end
    has_meta = true
    if byte(s, first) == 123 then return members(s, first, in_meta) end
    return value_end(s, first)
  end
  local last = value_end(s, first)
  if key == 'name' and last then
    if name or byte(s, first) ~= 34 or not plain and find(sub(s, first, last), '\\', 1, true) then return nil end
    name, name_end = first + 1, last - 1
  end
  if key == 'cursor' then
    if cursor then return nil end
    cursor, cursor_end = first, last
  else
    has_more = true
  end
  return last
end

local function in_message(s, key, first)
  if is_disguised(key) then return nil end
  count = count + 1
  if count > MAX_MEMBERS or key == 'result' or key == 'error' or not plain and find(key, '\\', 1, true) then return nil end
  if key == 'params' then
    if has_params then return nil end
    has_params = true
    return members(s, first, in_params)
  end
  local last = value_end(s, first)
  if not last then return nil end
  if key == 'jsonrpc' then
    if is_two or sub(s, first, last) ~= '"2.0"' then return nil end
    is_two = true
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

-- The method of a plain message, the place of its id (nil: a notification) and, for tools/call, that of
-- the name between its quotes. Nothing where Python's parser (protocol/jsonrpc.py) might read it otherwise.
function scan(s)
  is_two, method, id, id_end, has_params, name, name_end, cursor, cursor_end, has_more = nil, nil, nil, nil, nil, nil, nil, nil, nil, nil
  has_meta, spoken, is_capable, is_extended, shows_pages, has_level, count, inner = nil, nil, nil, nil, nil, nil, 0, 0
  local at = is_object(s, in_message)
  if not at or not is_two or not is_utf8(s, at) then return nil end
  if IS_BROKERS[method] then
    name, name_end = nil, nil
    return method, id, id_end
  end
  if method == CALL and id and name then return method, id, id_end, name, name_end end
end

-- Whether the message that was just scanned says of itself what its headers say of it, as the era of this
-- version has it (protocol/envelope.py). Where it does not, the router has to say what is wrong.
function is_of_era(s, headers, version)
  if not id then return true end -- nobody answers it
  if not IS_STATELESS[version] then return not spoken end
  return spoken == version and is_capable and headers:get(MCP_METHOD) == method
    and (not name or headers:get(MCP_NAME) == sub(s, name, name_end))
end
end
