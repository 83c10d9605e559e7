-- key, now, names of fields besides the entry -> the fields of a live entry, or nothing.

local key, now, fields = arg(), tonumber(arg()), cjson.decode(arg())
local found = call('HMGET', P .. 'e:' .. key, 'x', 's', 't', 'e', 'r', unpack(fields))
if not found[1] or tonumber(found[1]) <= now or outdated(found[3], tonumber(found[2])) then
  return false
end
return { unpack(found, 4, 5 + #fields) }
