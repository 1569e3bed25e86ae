-- gzip (RFC 1952) of a list around another id, for lists.lua, as mcpgw_sidecar/protocol/gzipped.py makes it.
-- An answer is: head (10 bytes), a stored block (1 byte that says that it is not the last, its length
-- and the inverted length, 2 each) of the text before the list, the blocks of the list, a stored block
-- of the last brace, checksum and size (4 each).
local HEAD, POLYNOMIAL = '\31\139\8\0\0\0\0\0\0\255\0', 0xEDB88320
local band, bnot, bxor, rshift = bit.band, bit.bnot, bit.bxor, bit.rshift

local function halved(n) return bxor(rshift(n, 1), band(n, 1) == 1 and POLYNOMIAL or 0) end

local CRC = {}
for n = 0, 255 do
  CRC[n] = n
  for _ = 1, 8 do CRC[n] = halved(CRC[n]) end
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

function put_together(before, packed)
  local first, check, change = crc32(before, 0), packed.alone, packed.top
  for k = 31, 0, -1 do
    if band(rshift(first, k), 1) == 1 then check = bxor(check, change) end
    change = halved(change)
  end
  local size = #before
  return HEAD .. little(size, 2) .. little(MAX_AROUND - size, 2) .. before .. packed.blocks
    .. little(crc32('}', check), 4) .. little(size + packed.size, 4)
end

-- The part that is the same in every answer with this list; nil if this answer cannot be made of it again.
-- `sums` are two checksums in hexadecimal.
function take_apart(text, sums)
  if #sums ~= 16 or #text < 30 then return nil end
  local size = number(text, 12, 2)
  local packed = {
    blocks = sub(text, 16 + size, -9), size = number(text, #text - 3, 4) - size,
    alone = bit.tobit(tonumber(sub(sums, 1, 8), 16)), top = bit.tobit(tonumber(sub(sums, 9), 16)),
  }
  return put_together(sub(text, 16, 15 + size), packed) == text and packed or nil
end
