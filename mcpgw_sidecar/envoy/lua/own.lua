-- What a server sends on a call's answer may answer that call alone. Clients count their requests, so any
-- server could guess the ids of those to other servers, and answer them. Stands behind json.lua in one filter.
-- A walk takes JSON of any depth and size in pieces, byte by byte, so that LuaJIT compiles it. It does not
-- ask whether the text is JSON: a client takes no other. Strict where clients could read it in two ways: a
-- member that decides, twice or in other letters, is an answer to another call.
do -- a filter has 200 local names at most
local MAX_TOKEN_HELD = 8192 -- bytes of a key or an id that two pieces share
local ENDS = {[11] = true, [12] = true, [28] = true, [29] = true, [30] = true} -- of lines, for clients on old versions of httpx-sse
local BREAKS = {['\194\133'] = '\\u0085', ['\226\128\168'] = '\\u2028', ['\226\128\169'] = '\\u2029'} -- likewise, and JSON may hold them
local BREAKING = '[\11\12\28-\30\194\226]' -- in a line that is no data: not there in what servers write
local MARK, IN_MARK = '\239\187\191', {[239] = true, [187] = true, [191] = true} -- of byte order
local DECIDES = {id = true, result = true, error = true, method = true}
local USUAL = {jsonrpc = true, params = true, id = true, result = true, error = true, method = true}

function new_walk()
  return {depth = 0, top = 1, quoted = false, escaped = false, wants_key = false, reading = nil, held = '', breaks = false}
end

local function character(code)
  if code < 128 then return string.char(code) end
  local last = 128 + code % 64
  if code < 2048 then return string.char(192 + math.floor(code / 64), last) end
  local middle = 128 + math.floor(code / 64) % 64
  if code < 65536 then return string.char(224 + math.floor(code / 4096), middle, last) end
  return string.char(240 + math.floor(code / 262144), 128 + math.floor(code / 4096) % 64, middle, last)
end

-- A JSON string without its escapes, for a comparison.
local function spelled(raw)
  local text = raw:gsub('\\\\', '\255') -- a backslash that escapes nothing: this byte is in no string
  text = text:gsub('\\u[dD]([89abAB]%x%x)\\u[dD]([c-fC-F]%x%x)', function(high, low)
    return character((tonumber(high, 16) - 2048) * 1024 + tonumber(low, 16) - 3072 + 65536)
  end)
  text = text:gsub('\\u(%x%x%x%x)', function(code) return code:lower() == '005c' and '\255' or character(tonumber(code, 16)) end)
  return (text:gsub('\\(/)', '%1'))
end

-- Whether two ids are the same, however they are written.
local function is_same(one, other)
  if one == other then return true end
  if byte(one) == 34 then return byte(other) == 34 and spelled(one) == spelled(other) end
  local number = tonumber(one)
  return number ~= nil and number == tonumber(other) and math.abs(number) < 9007199254740992
end

local function begin(walk)
  walk.wants_key, walk.id, walk.answers, walk.asks, walk.odd = true, nil, false, false, false
end

local function take_key(walk, key)
  walk.reading = nil
  if not USUAL[key] then
    if find(key, '[\\\128-\255]') or DECIDES[key:lower()] then walk.odd = true end
  elseif key == 'id' then
    if walk.id then walk.odd = true end
    walk.reading = 'id'
  elseif key == 'result' or key == 'error' then walk.answers = true
  elseif key == 'method' then walk.asks = true
  end
end

local function take_id(walk, text)
  walk.reading, walk.id = nil, text
end

-- Whether the message that ends here may reach the client of a call.
local function may_pass(walk, id)
  if walk.odd then return false end
  local text = walk.id -- as it stands behind its key
  if not text or walk.asks and not walk.answers or text == ':' .. id then return true end
  local raw = text:match('^%s*:%s*(.-)%s*$') or ''
  return raw == 'null' or is_same(raw, id)
end

-- Takes s[first..last], a piece of a text. False once a message has ended in it that answers another call
-- than `id`: nothing from this piece on may go to the client.
function walk_on(walk, s, first, last, id)
  local depth, top, quoted, escaped = walk.depth, walk.top, walk.quoted, walk.escaped
  local from = first -- of the key or id that is being read
  for i = first, last do
    local c = byte(s, i)
    if quoted then
      if escaped then
        escaped = false
        if c == 194 or c == 226 then walk.breaks = true elseif c < 32 and ENDS[c] then return false end
      elseif c == 92 then escaped = true
      elseif c == 34 then
        quoted = false
        if walk.reading == 'key' then
          take_key(walk, walk.held .. sub(s, from, i - 1))
          walk.held, from = '', i + 1
        end
      elseif c == 194 or c == 226 then walk.breaks = true -- perhaps
      elseif c < 32 and ENDS[c] then return false
      end
    elseif c == 34 then
      quoted = true
      if walk.wants_key and depth == top then walk.wants_key, walk.reading, from = false, 'key', i + 1 end
    elseif c == 123 or c == 91 then
      if c == 91 and depth == 0 then top = 2 end -- a list of messages
      depth = depth + 1
      if depth == top and c == 123 then begin(walk) end
    elseif c == 125 or c == 93 or c == 44 then
      if depth == top then
        if walk.reading == 'id' then
          take_id(walk, walk.held .. sub(s, from, i - 1))
          walk.held = ''
        end
        walk.wants_key = c == 44
        if c == 125 and not may_pass(walk, id) then return false end
      end
      if c ~= 44 then depth = depth - 1 end
      if depth == 0 then top = 1 end
    elseif c == 0 or ENDS[c] or c > 127 and (depth > 0 or not IN_MARK[c]) then
      return false -- no JSON, but some clients read UTF-16, or end lines there
    end
  end
  walk.depth, walk.top, walk.quoted, walk.escaped = depth, top, quoted, escaped
  if walk.reading then
    walk.held = walk.held .. sub(s, from, last)
    if #walk.held > MAX_TOKEN_HELD then return false end
  end
  return true
end

-- Whether all lines of a text may go as they are to the client of the call `id`: false, too, if it
-- does not end with an event. It must begin where an event may, and not with a mark of byte order.
function are_own(text, id)
  if byte(text, -1) ~= 10 or find(text, '\r', 1, true) and find(text, '\r[^\n]') then return false end
  local from, walk, is_whole = 1, new_walk(), true
  while from <= #text do
    local stop = find(text, '\n', from, true)
    local last = byte(text, stop - 1) == 13 and stop - 2 or stop - 1
    is_whole = last < from
    if is_whole then walk = (walk.depth ~= 0 or walk.quoted) and new_walk() or walk
    elseif sub(text, from, from + 4) == 'data:' then
      if not walk_on(walk, text, from + 5, last, id) or walk.breaks then return false end
    elseif find(sub(text, from, last), BREAKING) then return false
    end
    from = stop + 1
  end
  return is_whole
end

-- A filter for the lines of an event stream: what goes to the client of each line, with its end. `part`
-- is for a line that is too long to be held: a part of it that is not its end. A CR alone, which is no end
-- of a line for all clients, becomes LF. `has_begun`: these are not the first lines of the stream.
function own_lines(id, has_begun)
  local walk, dropped, inside, after_cr, is_first, count = new_walk(), false, nil, false, not has_begun, 0
  local lines, unclear = {}, '' -- the beginning of a line that may be one of data

  local function is_fine(text, first, last)
    if walk_on(walk, text, first, last, id) then return true end
    dropped, count = true, count + 1
    return false
  end

  -- A text without the marks at the beginning of the stream, which clients do not see; another may follow.
  local function unmarked(text)
    while sub(text, 1, 3) == MARK do text = sub(text, 4) end
    is_first = sub(MARK, 1, #text) == text
    return text
  end

  local function take(line)
    if inside then
      local kind, was_dropped = inside, dropped
      inside = nil
      if kind == 'data' and (was_dropped or not is_fine(line, 1, #line - 1)) then
        return '\nevent: dropped\n' -- behind what has gone out of it: no client takes such an event
      end
      return kind == 'data' and line or (line:gsub(BREAKING, '?'))
    end
    if #line == 1 then -- the event's end
      if walk.depth ~= 0 or walk.quoted or dropped then walk = new_walk() end
      dropped = false
      return line
    end
    if dropped then return '' end
    if sub(line, 1, 5) ~= 'data:' then return find(line, BREAKING) and '' or line end
    walk.breaks = false
    if not is_fine(line, 6, #line - 1) then return 'event: dropped\n' end
    return walk.breaks and (line:gsub('\194\133', BREAKS):gsub('\226\128[\168\169]', BREAKS)) or line
  end

  -- The end of a line that was held, because CR may be one half of it.
  local function held(is_other_half)
    local text = after_cr and (is_other_half and '\r\n' or '\n') or ''
    after_cr = false
    return text
  end

  function lines.part(text)
    local before = held(false)
    text, unclear = unclear .. text, ''
    if is_first then text = unmarked(text) end
    if not inside and (is_first or #text < 5 and sub('data:', 1, #text) == text) then
      unclear = text
      return before
    end
    local first = 1
    if not inside then inside, first = sub(text, 1, 5) == 'data:' and 'data' or 'other', 6 end
    if inside == 'other' then return before .. (text:gsub(BREAKING, '?')) end
    return before .. (not dropped and is_fine(text, first, #text) and text or '')
  end

  -- The line, and what goes before it.
  function lines.whole(line)
    if after_cr and line == '\n' then return '', held(true) end
    local before = held(false)
    line, unclear = unclear .. line, ''
    if is_first then line = unmarked(line) end
    if byte(line, -1) ~= 13 then return take(line), before end
    local out = take(sub(line, 1, -2) .. '\n')
    after_cr = out ~= ''
    return sub(out, 1, -2), before
  end

  -- What is left at the end of the stream, with the line that has no end.
  function lines.last(text)
    if text == '' then return held(false) end
    local line, before = lines.whole(text .. '\n')
    return before .. line
  end

  function lines.is_inside() return inside ~= nil end

  -- Whether something was dropped since the last question.
  function lines.has_dropped()
    local some = count > 0
    count = 0
    return some
  end

  -- The same as `are_own` in the middle of a stream. If not, nothing is taken: `whole` takes the lines.
  function lines.all(text)
    if walk.depth ~= 0 or walk.quoted or dropped or inside or after_cr or unclear ~= '' or is_first and byte(text) == 239 then return false end
    if not are_own(text, id) then return false end
    is_first = false
    return true
  end

  return lines
end
end
