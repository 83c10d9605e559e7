-- context, vector, k, now, since -> rows of the nearest: key, distance (false: by the vector that comes
-- with it), entry, expires, metadata, payload unless it is large, vector.
--
-- The query engine knows contexts, ends and times of storing; who is outdated by a tag it does not,
-- so where such take places, more are asked for.

local context, vector, k, now, since = arg(), arg(), tonumber(arg()), arg(), arg()

local function by_engine(asked)
  local hint = ''
  local here = tonumber(call('HGET', CONTEXTS, context) or 0)
  -- Its own choice is to compare all that the filter lets through.
  if asked <= 64 and here >= 5000 and here * 10 >= call('ZCARD', ORDER) then
    hint = ' HYBRID_POLICY BATCHES BATCH_SIZE 16'
  end
  local function search(plan)
    return redis.pcall(
      'FT.SEARCH', IDX,
      '(@c:{' .. context .. '} @x:[(' .. now .. ' +inf] @a:[' .. since .. ' +inf])=>[KNN ' .. asked
        .. ' @v $q' .. plan .. ' AS d]',
      'PARAMS', 2, 'q', vector, 'LIMIT', 0, asked, 'RETURN', 1, 'd', 'DIALECT', 2
    )
  end
  local found = search(hint)
  if found.err and hint ~= '' then -- not every engine takes hints
    found = search('')
  end
  if found.err then
    return found
  end
  local near = {}
  for i = 2, #found, 2 do
    local fields = found[i + 1]
    if fields and fields[2] then -- what has just left has none
      near[#near + 1] = { found[i]:sub(#P + 3), tonumber(fields[2]), fields[2] }
    end
  end
  table.sort(near, function(one, other) return one[2] < other[2] end)
  return near, #found < 2 * asked + 1
end

local function by_set(asked)
  local near = {}
  local set = P .. 'v:' .. context
  local size = call('VCARD', set)
  -- Few, or most of them: compared one by one, which is exact.
  local how = (size <= 1000 or 4 * asked >= size) and { 'TRUTH' } or { 'EF', 100 }
  local found = call('VSIM', set, 'FP32', vector, 'COUNT', asked, unpack(how))
  for _, key in ipairs(found) do
    near[#near + 1] = { key, 0, false }
  end
  return near, #near < asked
end

local asked = engine == 'ft' and k or 4 * k + 8 -- a set compares 8 bits of each number
local wanted = asked
while true do
  local near, all = (engine == 'ft' and by_engine or by_set)(asked)
  if near.err then
    return near
  end
  local rows = {}
  for _, one in ipairs(near) do
    local found = call('HMGET', P .. 'e:' .. one[1], 'x', 's', 't', 'a', 'e', 'r', 'm', 'p')
    if found[1] and tonumber(found[1]) > tonumber(now) and not outdated(found[3], tonumber(found[2]))
      and tonumber(found[4]) >= tonumber(since) then
      local exact = not one[3] and call('HGET', P .. 'e:' .. one[1], 'v')
      rows[#rows + 1] = { one[1], one[3], found[5], found[6], found[7], found[8], exact }
    end
  end
  if all or #rows >= wanted or asked > 10000 then
    return rows
  end
  asked = 4 * asked + 8
end
