-- Removal and use of entries.

-- Removes everything that names the member, even if the server has dropped the order under memory
-- pressure: a member left first in a queue would be chosen again and again.
local function remove(member, replaced)
  local one = parse(member)
  local stamp = call('HGET', P .. 'e:' .. one.key, 's')
  local here = stamp and tonumber(stamp) == one.stamp
  -- If the server has dropped the hash, another entry may have been stored under its key since.
  local current = not stamp or here
  local counted = call('ZREM', ORDER, member) == 1 or here
  call('ZREM', ENDS, member)
  if one.tags ~= '' then
    for _, tag in ipairs(cjson.decode(one.tags)) do
      call('ZREM', P .. 't:' .. tag, member)
    end
  end
  if counted then
    if call('HINCRBY', CONTEXTS, one.context, -1) <= 0 then
      call('HDEL', CONTEXTS, one.context)
    end
    call('HINCRBY', META, 'bytes', -one.bytes)
  end
  forget(member, one.key, replaced or not current)
  if current then
    call('UNLINK', P .. 'e:' .. one.key)
    if engine == 'vset' then
      call('VREM', P .. 'v:' .. one.context, one.key)
    end
    if not replaced then
      call('HDEL', USES, one.key)
    end
  end
  return counted and 1 or 0
end

-- Remove up to `limit` entries that have expired or are outdated.
local function purge(now, limit)
  local removed = 0
  if limit <= 0 then
    return 0
  end
  for _, member in ipairs(call('ZRANGEBYSCORE', ENDS, '-inf', text_of(now), 'LIMIT', 0, limit)) do
    removed = removed + remove(member)
  end
  for _, tag in ipairs(call('ZRANGE', EPOCHS, 0, 15)) do
    local left = limit - removed
    if left > 0 then
      local epoch = call('ZSCORE', EPOCHS, tag)
      local old = call('ZRANGEBYSCORE', P .. 't:' .. tag, '-inf', epoch, 'LIMIT', 0, left)
      for _, member in ipairs(old) do
        removed = removed + remove(member)
      end
      if #old < left then
        call('ZREM', EPOCHS, tag)
      end
    end
  end
  return removed
end

local function surplus(max_entries, max_bytes)
  local count = call('ZCARD', ORDER)
  if max_entries and count > max_entries then
    return count - max_entries
  end
  if max_bytes and count > 0 and tonumber(call('HGET', META, 'bytes') or 0) > max_bytes then
    return 1
  end
  return 0
end

-- Apply the limits by up to `limit` removals, expired entries first. Up to 16 entries that expired
-- at least a second ago are removed anyway, so that they do not accumulate. Returns the numbers of
-- evicted and of expired entries removed, and how many are still to be removed.
local function make_room(max_entries, max_bytes, now, limit)
  local evicted, ended = 0, purge(now - 1, 16)
  local more = surplus(max_entries, max_bytes)
  for _ = 1, limit do
    if more == 0 then
      break
    end
    local found = purge(now, 1)
    ended = ended + found
    if found == 0 then
      evicted = evicted + remove(victim())
    end
    more = surplus(max_entries, max_bytes)
  end
  return { evicted, ended, more }
end

local function touch(key, times, first, last)
  local hash = P .. 'e:' .. key
  local member = stored(key)
  if not member or times <= 0 then
    return
  end
  local uses = call('HGET', USES, key)
  local known, before = (uses or ''):match('^(%d+) (.*)$')
  local newest = math.max(last, tonumber(before or last))
  call('HSET', USES, key, string.format('%.0f %s', (known or 0) + times, text_of(newest)))
  served(member, key, times)
  local found = call('HMGET', hash, 'w', 'r', 'q', 'x')
  local sliding, expires = tonumber(found[1] or ''), tonumber(found[2] or '')
  if not sliding or not expires then
    return
  end
  local later = expires
  for _, used in ipairs({ first, last }) do
    if used < later then -- a use while the entry was stale does not count
      later = math.max(later, used + sliding)
    end
  end
  if later > expires then
    local ends = later + tonumber(found[3] or 0)
    call('HSET', hash, 'r', text_of(later), 'x', text_of(ends))
    call('ZADD', ENDS, text_of(ends), member)
    local left = call('PTTL', hash)
    if left > 0 then
      call('PEXPIRE', hash, string.format('%.0f', left + (ends - tonumber(found[4])) * 1000))
    end
  end
end

-- Apply the uses sent with this call. A full server refuses them, which must not fail the call. All
-- of them are read, as the script's own arguments follow.
local refused = false
for _ = 1, tonumber(arg()) do
  local key, times, first, last = arg(), tonumber(arg()), tonumber(arg()), tonumber(arg())
  refused = refused or not pcall(touch, key, times, first, last)
end
