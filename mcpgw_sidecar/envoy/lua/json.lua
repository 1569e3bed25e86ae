-- JSON (RFC 8259) as text with places, for memo.lua and events.lua, which stand behind this text in one
-- filter. Nothing is decoded. It is strict, as jsontext.py is: what it takes, Python's parser takes, and
-- reads alike (tests/property/test_memo_lua.py). What it does not take (more than DEPTH levels below a
-- member that is walked) is left to the router. It goes byte by byte and makes no closures, so that
-- LuaJIT compiles it.
local byte, find, sub = string.byte, string.find, string.sub
local DEPTH = 100
local ESCAPED = {[34] = true, [92] = true, [47] = true, [98] = true, [102] = true, [110] = true, [114] = true, [116] = true} -- "\\/bfnrt
local plain = false -- no string of the text at hand holds an escape or a control character: each ends at the next quote
local open = {} -- the brackets that are open around a value that is walked over

-- Index of the first byte from i on that is no space.
local function skip(s, i)
  local c = byte(s, i)
  while c == 32 or c == 10 or c == 13 or c == 9 do
    i = i + 1
    c = byte(s, i)
  end
  return i
end

-- Index of the quote that ends the string whose opening quote stands at i.
local function string_end(s, i)
  if plain then return (find(s, '"', i + 1, true)) end
  i = i + 1
  while true do
    local c = byte(s, i)
    if c == 34 then return i end
    if not c or c < 32 then return nil end
    if c ~= 92 then i = i + 1
    elseif ESCAPED[byte(s, i + 1)] then i = i + 2
    elseif find(s, '^u%x%x%x%x', i + 1) then i = i + 6
    else return nil end
  end
end

-- Index of the last of the digits that start at i, nil if there is none.
local function digits_end(s, i)
  local c = byte(s, i)
  if not c or c < 48 or c > 57 then return nil end
  repeat
    i = i + 1
    c = byte(s, i)
  until not c or c < 48 or c > 57
  return i - 1
end

local function number_end(s, i)
  if byte(s, i) == 45 then i = i + 1 end
  local last = byte(s, i) == 48 and i or digits_end(s, i)
  if last and byte(s, last + 1) == 46 then last = digits_end(s, last + 2) end
  local c = last and byte(s, last + 1)
  if c == 101 or c == 69 then
    c = byte(s, last + 2)
    last = digits_end(s, (c == 43 or c == 45) and last + 3 or last + 2)
  end
  return last
end

local function scalar_end(s, i)
  local c = byte(s, i)
  if c == 34 then return string_end(s, i) end
  if c == 116 then return sub(s, i, i + 3) == 'true' and i + 3 end
  if c == 102 then return sub(s, i, i + 4) == 'false' and i + 4 end
  if c == 110 then return sub(s, i, i + 3) == 'null' and i + 3 end
  return number_end(s, i)
end

-- A member whose key starts at i: the index of the quote behind the key, and that of the value's first byte.
local function key_end(s, i)
  if byte(s, i) ~= 34 then return nil end
  local e = string_end(s, i)
  local colon = e and skip(s, e + 1)
  if not colon or byte(s, colon) ~= 58 then return nil end
  return e, skip(s, colon + 1)
end

-- Index of the last byte of the value that starts at i.
local function value_end(s, i)
  local depth, last, e = 0, nil, nil
  while true do
    local c = byte(s, i)
    last = nil
    if c == 123 or c == 91 then
      if depth == DEPTH then return nil end
      i = skip(s, i + 1)
      if byte(s, i) == c + 2 then last = i
      else
        depth = depth + 1
        open[depth] = c
        if c == 123 then
          e, i = key_end(s, i)
          if not e then return nil end
        end
      end
    else
      last = scalar_end(s, i)
      if not last then return nil end
    end
    while last do -- a value has ended there
      if depth == 0 then return last end
      i = skip(s, last + 1)
      c = byte(s, i)
      if c == open[depth] + 2 then
        depth, last = depth - 1, i
      elseif c == 44 then
        i, last = skip(s, i + 1), nil
        if open[depth] == 123 then
          e, i = key_end(s, i)
          if not e then return nil end
        end
      else return nil end
    end
  end
end

-- Walks the object at i: visit(s, key, first) for each member gives the index of its value's last byte (value_end does), nil or false to
-- stop. The index of the object's last byte, nil if it is none. The key is as it is written, escapes and all.
local function members(s, i, visit)
  if byte(s, i) ~= 123 then return nil end
  i = skip(s, i + 1)
  if byte(s, i) == 125 then return i end
  while true do
    local e, first = key_end(s, i)
    local last = e and visit(s, sub(s, i + 1, e - 1), first)
    if not last then return nil end
    i = skip(s, last + 1)
    local c = byte(s, i)
    if c == 125 then return i end
    if c ~= 44 then return nil end
    i = skip(s, i + 1)
  end
end

-- Whether the bytes from i on are UTF-8 (RFC 3629: nothing overlong, no surrogates).
local function is_utf8(s, i)
  while i <= #s do
    local c = byte(s, i)
    local more = c < 128 and 0 or c < 224 and 1 or c < 240 and 2 or 3
    if c > 127 and c < 194 or c > 244 then return false end
    for k = i + 1, i + more do
      local d = byte(s, k)
      if not d or d < 128 or d > 191 then return false end
    end
    local d = more > 0 and byte(s, i + 1)
    if c == 224 and d < 160 or c == 237 and d > 159 or c == 240 and d < 144 or c == 244 and d > 143 then return false end
    i = i + more + 1
  end
  return true
end

-- Index of the first byte that is no printable ASCII, or a backslash. A loop, which LuaJIT compiles: a pattern takes ten times as long.
local function odd(s)
  for i = 1, #s do
    local c = byte(s, i)
    if c < 32 or c > 126 or c == 92 then return i end
  end
end

-- Whether the text is nothing but one object: visits its members. Gives the place from which on its bytes may be anything but ASCII.
local function is_object(s, visit)
  local at = odd(s)
  plain = not at or not find(s, '\\', at, true) and find(s, '^%C*$', at) ~= nil
  local last = members(s, skip(s, 1), visit)
  return last and skip(s, last + 1) > #s and (at or #s + 1)
end
