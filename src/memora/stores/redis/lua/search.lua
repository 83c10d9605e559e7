-- context, vector, k, now, since -> rows of the nearest entries: key, distance (false: compute it
-- from the vector), entry, expires, metadata, payload, vector. Only the first row has metadata and
-- payload, unless the payload is large: most often it is the one that is served.
--
-- The query engine filters by context, end and time of storing, but not by outdated tags: if
-- outdated entries take places, more are requested. For a small k the engine may leave out entries
-- for lack of time, or because they are not indexed yet; for a large k that is an error.

local context, vector, k, now, since = arg(), arg(), tonumber(arg()), arg(), arg()

local function by_engine(asked)
  local here, everywhere = tonumber(call('HGET', CONTEXTS, context) or 0), call('ZCARD', ORDER)
  -- By itself the engine compares all entries that pass the filter. Walking the graph of all
  -- contexts is faster if the filter passes a large share of many entries:
  -- benchmarks/redis_server.py. A caller who asks for many, in order to withdraw them, must miss
  -- none.
  local walks = asked <= 64 and here * here >= 2000 * everywhere
  -- Conditions only if needed: each one costs as much again per entry.
  local filter = ''
  if here < everywhere or not walks then
    filter = '@c:{' .. context .. '}'
  end
  if #call('ZRANGEBYSCORE', ENDS, '-inf', now, 'LIMIT', 0, 1) > 0 then
    filter = filter .. ' @x:[(' .. now .. ' +inf]'
  end
  if since ~= '-inf' then
    filter = filter .. ' @a:[' .. since .. ' +inf]'
  end
  filter = filter == '' and '*' or '(' .. filter .. ')'
  local hint = walks and filter ~= '*' and ' HYBRID_POLICY BATCHES BATCH_SIZE 16' or ''
  local patience = {}
  if k > 64 then
    local info, said = redis.pcall('FT.INFO', IDX), {}
    if info.err then
      return info
    end
    for i = 1, #info, 2 do
      said[type(info[i]) == 'table' and info[i].ok or info[i]] = info[i + 1]
    end
    if tonumber(said.indexing) == 1 and tonumber(said.num_docs) < everywhere then
      return { err = 'the index is still being built, so not all is found yet; try again' }
    end
    patience = { 'TIMEOUT', 60000 } -- longer than any client waits
    hint = ' HYBRID_POLICY ADHOC_BF'
  end
  local function search(plan)
    return redis.pcall(
      'FT.SEARCH', IDX, filter .. '=>[KNN ' .. asked .. ' @v $q' .. plan .. ' AS d]',
      'PARAMS', 2, 'q', vector, 'LIMIT', 0, asked, 'RETURN', 1, 'd', 'DIALECT', 2, unpack(patience)
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
    if fields and fields[2] then -- a removed entry has none
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
  -- A small set, or most of it is asked for, or none may be missed: compared one by one, which is
  -- exact.
  local how = (k > 64 or size <= 1000 or 4 * asked >= size) and { 'TRUTH' } or { 'EF', 200 }
  local found = call('VSIM', set, 'FP32', vector, 'COUNT', asked, unpack(how))
  for _, key in ipairs(found) do
    near[#near + 1] = { key, 0, false }
  end
  return near, #near < asked
end

local asked = engine == 'ft' and k or 2 * k + 2 -- a vector set compares 8 bits of each number
local wanted = asked
local most = k <= 64 and 256 or 10000 -- a lookup may miss, but must not block other calls for long
while true do
  local near, all = (engine == 'ft' and by_engine or by_set)(asked)
  if near.err then
    return near
  end
  local rows, past = {}, {}
  for _, one in ipairs(near) do
    local hash = P .. 'e:' .. one[1]
    local found = call('HMGET', hash, 'x', 's', 't', 'a', 'e', 'r', 'c')
    if found[1] and tonumber(found[1]) > tonumber(now) and not outdated(found[3], tonumber(found[2]))
      and tonumber(found[4]) >= tonumber(since) and found[7] == context then
      local content = #rows == 0 and call('HMGET', hash, 'm', 'p') or { false, false }
      local exact = not one[3] and call('HGET', hash, 'v')
      rows[#rows + 1] = { one[1], one[3], found[5], found[6], content[1], content[2], exact }
    elseif found[2] and outdated(found[3], tonumber(found[2])) then
      past[#past + 1] = one[1]
    end
  end
  if all or #rows >= wanted or asked > most then
    -- Outdated entries crowd the nearest: some are removed, in some milliseconds.
    if asked > 64 and k <= 64 then
      for i = 1, math.min(#past, 64) do
        pcall(remove, stored(past[i]))
      end
    end
    return rows
  end
  asked = 4 * asked + 8
end
