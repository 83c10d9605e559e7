-- another policy, the stamp to continue after ('0' to begin), how many -> the last stamp visited,
-- '' at the end. Puts the entries into the new policy's queue.

local wanted, after, limit = arg(), arg(), tonumber(arg())
if after == '0' then
  call('UNLINK', QUEUE, MAIN, GHOSTS, FREQ)
  call('HDEL', META, 'newest', 'newest_main', 'level')
  call('HSET', META, 'policy', wanted)
  return '1'
end
if policy ~= wanted or policy == 'fifo' then -- or another process has set another policy
  return ''
end
local members = call('ZRANGEBYSCORE', ORDER, '(' .. after, '+inf', 'LIMIT', 0, limit)
for _, member in ipairs(members) do
  local one = parse(member)
  after = string.format('%.0f', one.stamp)
  if policy == 'lru' then
    local last = (call('HGET', USES, one.key) or ''):match('^%d+ (.*)$')
    local used = math.max(one.stamp, (last or 0) * 1000000)
    call('ZADD', QUEUE, string.format('%.0f', used), member)
  else
    call('HSET', FREQ, one.key, math.min(times_used(one.key), 3))
    enter(member, false)
  end
end
return #members == limit and after or ''
