-- now, limit -> how many left.

local now = tonumber(arg())
return purge(now, tonumber(arg()))
