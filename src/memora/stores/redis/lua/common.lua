-- Included at the beginning of most scripts. All keys of a shard begin with KEYS[1], which has a
-- hash tag, so that in a cluster they are on one node (KEYS[2] is a guard for when they are not:
-- see `_server.py`):
--
--   meta      hash    table (a random name: another one, and this table is gone), format, model,
--                     dimension, engine, policy, shards; stamp, bytes; of a policy: newest, level
--   e:<key>   hash    an entry: e as JSON, c context, x end, a created, v vector, s stamp, b bytes,
--                     i id, r expires ('' never), m metadata, p payload (P a large one),
--                     t tags as JSON, k cost, w sliding and q stale seconds, f fence
--   order     zset    members (see `member_of`) by stamp: in the order of storing
--   ends      zset    those with an end, by it
--   t:<tag>   zset    those of a tag, by stamp
--   epochs    zset    tags by the stamp up to which their entries are outdated
--   contexts  hash    entries by context
--   uses      hash    'times last', by key
--   queue, main, ghosts, freq   what the policy needs
--   l:<key>   string  who leads a key: the fence
--   idx       the index of the query engine; v:<context>  without it a vector set a context
--
-- All times are by the server's own clock. Stamps are its microseconds, each later than the last.
-- If a script stores, its first write is one that a full server refuses, so that nothing is half
-- done.

local P, at = KEYS[1], 0
local META, ORDER, ENDS, EPOCHS = P .. 'meta', P .. 'order', P .. 'ends', P .. 'epochs'
local CONTEXTS, USES, IDX = P .. 'contexts', P .. 'uses', P .. 'idx'
local QUEUE, MAIN, GHOSTS, FREQ = P .. 'queue', P .. 'main', P .. 'ghosts', P .. 'freq'
local call = redis.call

local function arg()
  at = at + 1
  return ARGV[at]
end

local function text_of(number) -- without loss
  return string.format('%.17g', number)
end

local meta = call('HMGET', META, 'table', 'engine', 'policy')
if arg() ~= meta[1] then
  return redis.error_reply('MEMORAGONE the table is not there any more')
end
local engine, policy = meta[2], meta[3]

local newest_stamp
local function next_stamp()
  if not newest_stamp then
    local now = call('TIME')
    local known = tonumber(call('HGET', META, 'stamp') or 0)
    newest_stamp = math.max(now[1] * 1000000 + now[2], known + 1)
  else
    newest_stamp = newest_stamp + 1
  end
  call('HSET', META, 'stamp', string.format('%.0f', newest_stamp))
  return newest_stamp
end

-- All data needed to remove an entry, even if the server has dropped its hash.
local function member_of(stamp, key, context, bytes, tags)
  return string.format('%016.0f', stamp) .. key .. context .. string.format('%012.0f', bytes) .. tags
end

local function parse(member)
  return {
    stamp = tonumber(member:sub(1, 16)),
    key = member:sub(17, 48),
    context = member:sub(49, 112),
    bytes = tonumber(member:sub(113, 124)),
    tags = member:sub(125),
  }
end

local function stored(key)
  local found = call('HMGET', P .. 'e:' .. key, 's', 'c', 'b', 't')
  if found[1] then
    return member_of(tonumber(found[1]), key, found[2], tonumber(found[3]), found[4] or '')
  end
end

local some_outdated
local function outdated(tags, stamp)
  if not tags or tags == '' then
    return false
  end
  if some_outdated == nil then
    some_outdated = call('EXISTS', EPOCHS) == 1
  end
  if some_outdated then
    for _, tag in ipairs(cjson.decode(tags)) do
      local epoch = call('ZSCORE', EPOCHS, tag)
      if epoch and tonumber(epoch) >= stamp then
        return true
      end
    end
  end
  return false
end
