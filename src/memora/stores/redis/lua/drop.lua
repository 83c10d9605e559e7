-- key -> 1 if it existed.

local member = stored(arg())
return member and remove(member) or 0
