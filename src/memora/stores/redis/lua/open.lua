-- Does not include `common.lua`. A name for a new table, its format, model, dimension, engine,
-- policy and shards, and whether it may be created -> those of the existing table, created if it
-- was missing; and why the engine does not work, or would not for a new table, '' if it does. A
-- table of another format is not changed.

local P = KEYS[1]
local META, IDX = P .. 'meta', P .. 'idx'
local engine, dimension, create = ARGV[5], tonumber(ARGV[4]), ARGV[8] == '1'
local fault = ''
local known = redis.call('HGET', META, 'engine')
if known then
  engine = known
end
local zeros = string.rep('\0', 4 * (tonumber(redis.call('HGET', META, 'dimension')) or dimension))
local tried
local format = redis.call('HGET', META, 'format')
if format and format ~= ARGV[2] then
  tried = nil
elseif engine == 'vset' then
  local one = '\0\0\128\63' .. zeros:sub(5)
  tried = redis.pcall('VADD', P .. 'probe', 'FP32', one, 'probe', 'Q8', 'EF', 200, 'M', 16)
  redis.call('DEL', P .. 'probe')
elseif known or create then
  tried = redis.pcall(
    'FT.CREATE', IDX, 'ON', 'HASH', 'PREFIX', 1, P .. 'e:',
    'SCHEMA', 'c', 'TAG', 'x', 'NUMERIC', 'a', 'NUMERIC',
    'v', 'VECTOR', 'HNSW', 12, 'TYPE', 'FLOAT32', 'DIM', #zeros / 4,
    'DISTANCE_METRIC', 'COSINE', 'M', 16, 'EF_CONSTRUCTION', 200, 'EF_RUNTIME', 100
  )
  if type(tried) ~= 'table' or tried.ok or (tried.err or ''):lower():find('exist') then
    tried = redis.pcall(
      'FT.SEARCH', IDX, '(@c:{0} @x:[(0 +inf] @a:[-inf +inf])=>[KNN 1 @v $q AS d]',
      'PARAMS', 2, 'q', zeros, 'LIMIT', 0, 1, 'RETURN', 1, 'd', 'DIALECT', 2
    )
    if type(tried) ~= 'table' or not tried.err then
      tried = redis.pcall('FT.INFO', IDX)
    end
  end
else
  -- Nothing may be created: an engine that exists and is allowed refuses the argument, not the
  -- command.
  tried = redis.pcall('FT.CREATE', IDX, 'ON', 'NOTHING', 'SCHEMA', 'c', 'TAG')
  if type(tried) == 'table' and tried.err and not tried.err:lower():find('command') then
    tried = nil
  end
end
if type(tried) == 'table' and tried.err then
  fault = tried.err
elseif create and not known then
  redis.call(
    'HSET', META, 'table', ARGV[1], 'format', ARGV[2], 'model', ARGV[3], 'dimension', ARGV[4],
    'engine', ARGV[5], 'policy', ARGV[6], 'shards', ARGV[7]
  )
end
local found = redis.call('HMGET', META, 'table', 'format', 'model', 'dimension', 'engine', 'policy', 'shards')
found[#found + 1] = fault
return found
