-- Choice of evicted entries: the policies of memora.eviction, over sorted sets. fifo needs only the
-- order. The others have a queue; lfu, cost and s3fifo keep the newest entry outside it, as there.

local ranked = policy == 'lfu' or policy == 'cost'
local sheltering = ranked or policy == 's3fifo'

local function times_used(key)
  local uses = call('HGET', USES, key)
  return uses and tonumber(uses:match('^%d+')) or 0
end

local function rank(key)
  local times = times_used(key)
  if policy == 'lfu' then
    return times
  end
  local cost = tonumber(call('HGET', P .. 'e:' .. key, 'k') or 1)
  return tonumber(call('HGET', META, 'level') or 0) + (1 + times) * cost
end

local function enter(member, in_main)
  local key = parse(member).key
  if ranked then
    call('ZADD', QUEUE, text_of(rank(key)), member)
  else
    in_main = call('ZREM', GHOSTS, key) == 1 or in_main
    call('ZADD', in_main and MAIN or QUEUE, next_stamp(), member)
  end
end

-- Note a stored member, and the former one of its key if any.
local function admit(member, former)
  if policy == 'lru' then
    call('ZADD', QUEUE, next_stamp(), member)
  elseif sheltering then
    local newest = call('HMGET', META, 'newest', 'newest_main')
    local in_main = false
    if former and former == newest[1] then
      in_main = newest[2] == '1'
    else
      in_main = former and call('ZSCORE', MAIN, former)
      if newest[1] then
        enter(newest[1], newest[2] == '1')
      end
    end
    call('HSET', META, 'newest', member, 'newest_main', in_main and '1' or '0')
  end
end

local function forget(member, key, replaced)
  if policy == 'fifo' then
    return
  end
  call('ZREM', QUEUE, member)
  call('ZREM', MAIN, member)
  if not replaced then
    call('HDEL', FREQ, key)
    if call('HGET', META, 'newest') == member then
      call('HDEL', META, 'newest', 'newest_main')
    end
  end
end

local function served(member, key, times)
  if policy == 'lru' then
    call('ZADD', QUEUE, 'XX', next_stamp(), member)
  elseif ranked and call('ZSCORE', QUEUE, member) then
    call('ZADD', QUEUE, text_of(rank(key)), member)
  elseif policy == 's3fifo' then
    call('HSET', FREQ, key, math.min((call('HGET', FREQ, key) or 0) + times, 3))
  end
end

local function first(queue)
  return call('ZRANGE', queue, 0, 0)[1]
end

local function s3fifo_victim()
  local small, main = call('ZCARD', QUEUE), call('ZCARD', MAIN)
  local size = small + main
  local share = math.max(math.floor(size / 10), 1)
  if size == 0 then
    return nil
  end
  for _ = 1, 1000 do -- a millisecond or two
    local from_small = small >= share or main == 0
    local member = first(from_small and QUEUE or MAIN)
    local key = parse(member).key
    local uses = tonumber(call('HGET', FREQ, key) or 0)
    if uses == 0 then
      if from_small then
        call('ZADD', GHOSTS, next_stamp(), key)
        call('ZREMRANGEBYRANK', GHOSTS, 0, -math.max(size - share, 1) - 1)
      end
      return member
    end
    call('HSET', FREQ, key, from_small and 0 or uses - 1)
    call('ZADD', MAIN, next_stamp(), member)
    if from_small then
      call('ZREM', QUEUE, member)
      small, main = small - 1, main + 1
    end
  end
  return first(MAIN)
end

-- Whether all entries are in the policy's queues. Not while the policy is being changed, or if the
-- process that changed it was killed: entries without a place would stay, and all new entries would
-- be evicted.
local function placed()
  local places = call('ZCARD', QUEUE) + call('ZCARD', MAIN) + call('HEXISTS', META, 'newest')
  return places >= call('ZCARD', ORDER)
end

local function victim()
  local chosen
  if policy == 'fifo' or not placed() then
    return first(ORDER)
  elseif policy == 's3fifo' then
    chosen = s3fifo_victim()
  else
    local found = call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES')
    chosen = found[1]
    if chosen and policy == 'cost' then
      call('HSET', META, 'level', found[2])
    end
  end
  return chosen or first(ORDER)
end
