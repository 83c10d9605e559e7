-- key -> whether it was there.

local member = stored(arg())
return member and remove(member) or 0
