-- tag ('' for all), context ('' for any), now, the stamp to continue after, how many -> the last
-- stamp visited, whether there may be more, and rows: key, stamp, entry, expires, bytes, uses.

local tag, context, now = arg(), arg(), tonumber(arg())
local after, limit = arg(), tonumber(arg())
local from = tag == '' and ORDER or P .. 't:' .. tag
local members = call('ZRANGEBYSCORE', from, '(' .. after, '+inf', 'LIMIT', 0, limit)
local rows = {}
for _, member in ipairs(members) do
  local one = parse(member)
  after = string.format('%.0f', one.stamp)
  if context == '' or context == one.context then
    local found = call('HMGET', P .. 'e:' .. one.key, 'x', 's', 'e', 'r', 'b')
    if found[1] and tonumber(found[1]) > now and tonumber(found[2]) == one.stamp
      and not outdated(one.tags, one.stamp) then
      local uses = call('HGET', USES, one.key) or ''
      rows[#rows + 1] = { one.key, found[2], found[3], found[4], found[5], uses }
    end
  end
end
return { after, #members == limit and 1 or 0, rows }
