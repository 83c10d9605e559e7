-- key, now -> the row of `select.lua`, or nothing.

local key, now = arg(), tonumber(arg())
local found = call('HMGET', P .. 'e:' .. key, 'x', 's', 't', 'e', 'r', 'b')
if not found[1] or tonumber(found[1]) <= now or outdated(found[3], tonumber(found[2])) then
  return false
end
return { key, found[2], found[4], found[5], found[6], call('HGET', USES, key) or '' }
