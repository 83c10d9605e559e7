-- limits, now, entries -> the result of `make_room`. Stores all or none, except those refused by a
-- fence.

local max_entries, max_bytes, now = tonumber(arg()), tonumber(arg()), tonumber(arg())
local entries = tonumber(arg())
for _ = 1, entries do
  local key, context, fence, px, bytes = arg(), arg(), arg(), arg(), tonumber(arg())
  local ends, tags, vector, fields = arg(), arg(), arg(), {}
  for i = 1, tonumber(arg()) do
    fields[i] = arg()
  end
  local hash = P .. 'e:' .. key
  local stamp = next_stamp()
  local fenced = false
  if fence ~= '' then -- the leader's lease may have gone to another while it computed
    local leads, storer = call('GET', P .. 'l:' .. key), call('HGET', hash, 'f')
    fenced = (leads and tonumber(leads) > tonumber(fence))
      or (storer and tonumber(storer) > tonumber(fence))
  end
  if not fenced then
    local former = stored(key)
    local member = member_of(stamp, key, context, bytes, tags)
    call('ZADD', ORDER, stamp, member)
    call('HINCRBY', CONTEXTS, context, 1)
    call('HINCRBY', META, 'bytes', bytes)
    admit(member, former)
    if former then
      remove(former, true)
    end
    local number = string.format('%.0f', stamp)
    call('HSET', hash, 's', number, 'c', context, 'b', bytes, 'x', ends, unpack(fields))
    if px ~= '' then
      call('PEXPIRE', hash, px)
      call('ZADD', ENDS, ends, member)
    end
    if tags ~= '' then
      call('HSET', hash, 't', tags)
      for _, tag in ipairs(cjson.decode(tags)) do
        call('ZADD', P .. 't:' .. tag, stamp, member)
      end
    end
    if vector ~= '' and engine == 'vset' then
      call('VADD', P .. 'v:' .. context, 'FP32', vector, key, 'Q8', 'EF', 200, 'M', 16)
    end
  end
end
return make_room(max_entries, max_bytes, now, entries + 16)
